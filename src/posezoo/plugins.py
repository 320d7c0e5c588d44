"""Methods and datasets of other packages, found through the entry-point group `posezoo.plugins`. No torch in here."""

from importlib.metadata import EntryPoint, entry_points

from posezoo.errors import PoseZooError

GROUP = "posezoo.plugins"


def installed_plugins() -> dict[str, str]:
    """Name of each installed plug-in and one line about it; nothing is imported."""
    return {plugin.name: _describe(plugin) for plugin in entry_points(group=GROUP)}


def load_installed_plugins() -> None:
    """Import every installed plug-in, which makes its methods and datasets known by name.

    Raises:
        PoseZooError: One cannot be imported; the message names it.
    """
    for plugin in entry_points(group=GROUP):
        try:
            plugin.load()
        except Exception as error:
            raise PoseZooError(
                f"the plug-in '{plugin.name}' ({plugin.value}) cannot be imported ({error}): update or uninstall it."
            ) from error


def _describe(plugin: EntryPoint) -> str:
    """What it imports, and from which package."""
    package = plugin.dist
    if package is None:
        return plugin.value
    summary = str(package.metadata.json.get("summary", ""))
    return f"{plugin.value}, from {package.name} {package.version}{f': {summary}' if summary else ''}"
