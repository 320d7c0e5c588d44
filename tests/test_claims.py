"""The claims benchmark: its statistics against hand-worked numbers, its dials, its plans, and a run of a few steps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

import posezoo.models
from benchmarks.claims import __main__ as command
from benchmarks.claims.budget import GPU, Plan, make_plan, parse_seconds
from benchmarks.claims.catalogue import CLAIMS
from benchmarks.claims.design import Claim, Comparison, Contender, TestSet, Training
from benchmarks.claims.people import EDGES, ClaimPeople, window_shift
from benchmarks.claims.report import DOCS, plan_table, publish, tables, with_results
from benchmarks.claims.results import chosen_joints, person_errors, results, word
from benchmarks.claims.run import Run
from benchmarks.claims.statistics import Interval, paired_interval, student_quantile
from posezoo import cli
from posezoo.recipes_index import recipe_names
from posezoo.skeletons import H36M17, HEMLETS18, SYNTHETIC25, convert

# ------------------------------------------------------------------------------------------------ statistics


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (1e5, 1.96)]
)
def test_t_quantiles_are_those_of_the_tables(freedom: float, expected: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("freedom", [1.0, 1.5, 2.37, 17.9])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.995])
def test_t_quantiles_hold_for_fractional_degrees_of_freedom(freedom: float, probability: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(
        stats.t.ppf(probability, freedom), abs=1e-3, rel=2e-4
    )


def test_one_seed_is_the_paired_t_interval() -> None:
    # mean 2.5, standard deviation 1.29099, standard error 0.645497, t(0.975; 3) = 3.18245
    found = paired_interval(np.array([[1.0, 2, 3, 4]]))
    assert (found.mean, found.low, found.high) == pytest.approx((2.5, 2.5 - 2.05427, 2.5 + 2.05427), abs=1e-4)
    assert (found.people, found.seeds, found.over_seeds) == (4, 1, None)


def test_two_seeds_and_two_people_by_hand() -> None:
    # seed means 2 and 4: variance 2, over two seeds 1; person means 2 and 4: also 1; together 2, with
    # (1 + 1)^2 / (1 + 1) = 2 degrees of freedom: t = 4.30265, half the interval 4.30265 sqrt(2)
    found = paired_interval(np.array([[1.0, 3], [3, 5]]))
    assert found.freedom == pytest.approx(2)
    assert (found.mean, found.high - found.mean) == pytest.approx((3, 6.08487), abs=1e-4)
    assert found.over_seeds == pytest.approx(1)


def test_people_without_a_value_under_any_seed_do_not_count() -> None:
    full = np.array([[1.0, 2, 3], [1, 2, 5]])
    holed = np.array([[1.0, np.nan, 2, 3, 9], [1, 7, 2, 5, np.nan]])
    assert paired_interval(holed) == paired_interval(full)
    with pytest.raises(ValueError, match="at least two people"):
        paired_interval(np.array([[1.0, np.nan]]))


def test_seeds_that_disagree_make_the_interval_wide() -> None:
    people = np.random.default_rng(0).normal(size=500)
    agreeing = paired_interval(np.stack([people - 5, people - 5, people - 5]))
    torn = paired_interval(np.stack([people - 15, people - 5, people + 5]))
    assert agreeing.excludes_zero
    assert not torn.excludes_zero


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        seeds, people, rest = rng.normal(0, 2, (3, 1)), rng.normal(0, 30, (1, 60)), rng.normal(0, 20, (3, 60))
        found = paired_interval(seeds + people + rest)
        hits += found.low <= 0 <= found.high
    assert 0.92 < hits / 300 <= 1


@pytest.mark.parametrize(
    ("low", "high", "says", "expected"),
    [
        (-3.0, -1.0, "below", "supported"),
        (-3.0, 1.0, "below", "null result"),
        (1.0, 3.0, "below", "contradicted"),
        (-1.0, 1.0, "equal", "no difference found"),
        (-3.0, -1.0, "equal", "contradicted"),
    ],
)
def test_the_verdict_is_the_intervals(low: float, high: float, says: str, expected: str) -> None:
    assert word(Interval((low + high) / 2, low, high, None, 1.0, 5.0, 6, 1), says) == expected


# ----------------------------------------------------------------------------------------------------- errors


def scores() -> dict[str, Any]:
    values = np.array([[0.0, 10, 20, 30], [0, 100, 200, np.nan]])
    outside = np.array([[False, False, True, True], [False, False, False, True]])
    names = np.array(["pelvis", "r_hip", "r_knee", "r_ankle"])
    return {"mpjpe": values, "abs_mpjpe": values + 7, "outside": outside, "joints": names}


def test_a_persons_error_is_the_mean_over_the_joints_that_count() -> None:
    assert person_errors(scores(), "mpjpe").tolist() == [15, 100]
    assert person_errors(scores(), "mpjpe", "r_knee r_ankle").tolist() == [25, 200]
    assert person_errors(scores(), "mpjpe", "g3_dof/distal")[0] == 30
    assert person_errors(scores(), "mrpe").tolist() == [7, 7]
    inside, outside = (person_errors(scores(), "mpjpe", where=where) for where in ("inside", "outside"))
    assert inside.tolist() == [5, 100]
    assert outside[0] == 25
    assert np.isnan(outside[1])  # its only joint outside has no value


def test_groups_of_joints_are_a_partition_of_both_skeletons() -> None:
    for skeleton in (H36M17, HEMLETS18):
        names = list(skeleton.joints)
        for groups in (("core", "mid", "distal"), ("trunk", "arms", "legs")):
            preset = "g3_dof" if groups[0] == "core" else "g3_anatomy"
            found = [joint for group in groups for joint in chosen_joints(f"{preset}/{group}", names)]
            assert sorted(found) == sorted(names)


# ------------------------------------------------------------------------------------------------------ dials


def outside(joints: np.ndarray, size: int) -> int:
    return int(((joints < -0.5) | (joints > size - 0.5)).any(-1).sum())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.35, 0.5])
def test_the_window_leaves_exactly_the_wanted_joints_outside(share: float) -> None:
    people = ClaimPeople(preset="easy", frame_size=48, outside=share, test_length=8, num_workers=0).people("test")
    plain = ClaimPeople(preset="easy", frame_size=48, test_length=8, num_workers=0).people("test")
    for index in range(8):
        moved, still = people.frame(index, 48), plain.frame(index, 48)
        joints, _ = convert(moved.joints2d[0], None, SYNTHETIC25, H36M17)
        assert outside(joints, 48) == round(share * 17)
        assert np.array_equal(moved.joints3d, still.joints3d)  # the scene stays


def test_larger_shares_cut_off_more_of_the_same_side() -> None:
    joints = np.random.default_rng(0).uniform(10, 50, (17, 2))
    shifts = np.array([window_shift(joints, 64, share, np.random.default_rng(5)) for share in (0.0, 0.2, 0.5)])
    assert not shifts[0].any()
    assert np.count_nonzero(shifts[1]) == np.count_nonzero(shifts[2]) == 1
    assert (np.sign(shifts[1]) == np.sign(shifts[2])).all()
    assert np.abs(shifts[2]).max() > np.abs(shifts[1]).max()
    assert len(EDGES) == 4


def test_a_dial_leaves_the_person_alone() -> None:
    def first(**dials: Any) -> Any:
        data = ClaimPeople(preset="easy", frame_size=48, test_length=4, num_workers=0, **dials)
        return data.people("test").frame(1, 48), data.protocol("test")

    (plain, _), (covered, line) = first(), first(overlay=1.0)
    assert np.array_equal(plain.joints3d, covered.joints3d)
    assert np.array_equal(plain.joints2d, covered.joints2d)
    assert (plain.image != covered.image).any()
    assert "'easy' test, n=4" in line
    assert line.endswith("overlay 1")


def test_statures_spread_as_the_dial_says() -> None:
    def different(sd: float) -> int:
        people = ClaimPeople(preset="easy", test_length=40, stature_sd=sd, num_workers=0).people("test")
        return len({round(float(people.frame(index, 16).stature[0])) for index in range(40)})

    # Without a spread there are grown women and men, and the few children, whose size has a spread of its own.
    assert different(0.0) < 10 < 30 < different(130.0)


def test_a_share_of_the_depth_orders_is_turned_round() -> None:
    def orders(noise: float) -> np.ndarray:
        options: dict[str, Any] = {"weak_share": 1.0, "order_noise": noise, "train_length": 60, "num_workers": 0}
        people = ClaimPeople(preset="easy", skeleton="hemlets18", **options).people("train")
        return np.stack([people.read_labels(index).depth_order for index in range(60)])

    clean, noisy = orders(0.0), orders(0.1)
    assert np.array_equal(noisy, orders(0.1))
    changed = clean != noisy
    assert (noisy[changed] == -clean[changed]).all()
    assert changed[clean != 0].mean() == pytest.approx(0.1, abs=0.03)


# ------------------------------------------------------------------------------------------------------ plans


def test_budgets_are_times() -> None:
    assert [parse_seconds(text) for text in ("90s", "2m", "1.5h")] == [90, 120, 5400]
    for wrong in ("2", "two minutes", "0m", "-1h"):
        with pytest.raises(ValueError, match="is no budget"):
            parse_seconds(wrong)


@pytest.mark.parametrize("name", CLAIMS)
def test_more_budget_is_more_steps(name: str) -> None:
    steps = [make_plan(CLAIMS[name], budget).steps for budget in ("2m", "20m", "2h", "8h")]
    assert steps == sorted(steps)
    assert steps[-1] > 1000
    assert make_plan(CLAIMS[name], "gpu-day") is GPU


def test_the_page_shows_the_plans_that_are_made() -> None:
    assert plan_table() in (DOCS / "claims.md").read_text(encoding="utf-8"), (
        "put this into docs/claims.md:\n" + plan_table()
    )


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_consistent(name: str, tmp_path: Path) -> None:
    claim = CLAIMS[name]
    trainings, scored = {t.name for t in claim.trainings}, {(c.name, t.name) for c, t in claim.scored()}
    assert {c.training for c in claim.contenders} == trainings - {t.name for t in claim.trainings if t.searches}
    assert len({c.key for c in claim.comparisons}) == len(claim.comparisons)
    assert any(c.primary for c in claim.comparisons)
    for comparison in claim.comparisons:
        for contender in (comparison.first, comparison.second):
            assert (contender, comparison.test) in scored
            assert not comparison.against or (contender, comparison.against) in scored
    for training in claim.trainings:
        assert {training.recipe, *training.overlays} <= set(recipe_names())


def test_recipes_differ_in_what_is_compared_only(tmp_path: Path) -> None:
    claim = CLAIMS["striding"]
    run = Run(claim, make_plan(claim, "2h"), tmp_path)
    centred, uncentred = (run.recipe(claim.training(name), 1) for name in ("centred", "uncentred"))
    assert uncentred["model"]["init_args"].pop("centered_stride") is False
    assert centred == uncentred
    assert centred["seed_everything"] == centred["data"]["init_args"]["seed"] == 1
    steps = run.plan.steps
    assert (
        centred["trainer"]["max_steps"]
        == centred["model"]["init_args"]["lr_scheduler"]["init_args"]["total_steps"]
        == steps
    )
    assert centred["model"]["init_args"]["absolute_start"] == round(0.4 * steps)


def test_controls_wait_for_the_search_and_get_its_genotype(tmp_path: Path) -> None:
    claim = CLAIMS["partaware"]
    run = Run(claim, make_plan(claim, "2h"), tmp_path)
    model = run.recipe(claim.training("permuted"), 2)["model"]["init_args"]
    assert model["control"] == "permuted"
    assert model["control_seed"] == 2
    assert model["genotype"] == str(run.run_folder(claim.training("search"), 0) / "run" / "genotype.yaml")
    costs = {run.recipe(t, 0)["model"]["init_args"].get("max_gmacs") for t in claim.trainings if not t.searches}
    assert len(costs) == 1  # equal, and there is one
    assert None not in costs
    search = run.recipe(claim.training("search"), 0)
    assert search["data"]["class_path"].endswith("SearchSplit")
    assert search["data"]["init_args"]["dataset"]["init_args"]["train_length"] == run.plan.search_people
    assert "max_steps" not in search["trainer"]


def test_an_accelerator_changes_neither_steps_nor_recipe_otherwise(tmp_path: Path) -> None:
    claim, plan = CLAIMS["striding"], make_plan(CLAIMS["striding"], "20m")
    training = claim.training("centred")
    cpu = Run(claim, plan, tmp_path).recipe(training, 0)
    gpu = Run(claim, replace(plan, trainer={"accelerator": "gpu"}), tmp_path).recipe(training, 0)
    assert gpu["trainer"].pop("accelerator") == "gpu"
    assert cpu["trainer"].pop("accelerator") == "cpu"
    assert cpu == gpu


@pytest.mark.slow
@pytest.mark.parametrize("name", ["striding", "truncation", "hemlets", "partaware"])
def test_the_networks_of_a_gpu_day_can_be_built(name: str, tmp_path: Path) -> None:
    run = Run(CLAIMS[name], GPU, tmp_path)
    recipes = {t.recipe: run.recipe(t, 0)["model"] for t in reversed(CLAIMS[name].trainings)}
    for content in recipes.values():
        made_elsewhere = ("optimizer", "lr_scheduler", "arch_optimizer", "genotype", "control", "control_seed")
        arguments = {key: value for key, value in content["init_args"].items() if key not in made_elsewhere}
        estimator = getattr(posezoo.models, content["class_path"].rpartition(".")[2])(**arguments)
        assert estimator.image_size == 128


def test_another_plan_is_another_folder(tmp_path: Path) -> None:
    claim, plan = CLAIMS["striding"], make_plan(CLAIMS["striding"], "20m")
    assert Run(claim, plan, tmp_path).folder == Run(claim, plan, tmp_path).folder
    assert Run(claim, plan, tmp_path).folder != Run(claim, replace(plan, steps=plan.steps + 1), tmp_path).folder


# -------------------------------------------------------------------------------------------------- a tiny run

_TINY = {"backbone": "resnet10_w8", "stride": 16}


def tiny_claim() -> Claim:
    return Claim(
        name="tiny",
        title="Two tiny networks",
        paper="Nothing.",
        trainings=(
            Training("one", "metrabs/demo_synthetic", 0.1, model=_TINY),
            Training("two", "metrabs/demo_synthetic", 0.1, model=_TINY | {"centered_stride": False}),
        ),
        contenders=(Contender("one", "one"), Contender("two", "two")),
        tests=(TestSet("inside", {"outside": 0.0}, 0.0), TestSet("half", {"outside": 0.5}, 0.5)),
        comparisons=(
            Comparison("one", "two", "half", primary=True),
            Comparison("one", "two", "half", against="inside"),
            Comparison("one", "two", "half", "abs_mpjpe", where="outside"),
        ),
        axis="share outside",
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any]]:
    """A run of the tiny claim, one of whose trainings was stopped in the middle and resumed."""
    plan = Plan("tiny", 4, 1, 32, 32, 8, seeds=2, data={"batch_size": 8, "frame_size": 48})
    run = Run(tiny_claim(), plan, tmp_path_factory.mktemp("claims"), workers=0)
    stopped = Run(run.claim, replace(plan, steps=2), run.out, workers=0)
    stopped.folder = run.folder  # type: ignore[misc]
    training, full = run.claim.training("one"), Run.recipe

    def half(self: Run, training: Training, seed: int) -> dict[str, Any]:
        content = full(run, training, seed)
        return content | {"trainer": content["trainer"] | {"max_steps": 2}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "recipe", half)
        stopped.trained(training, 0)
    (run.run_folder(training, 0) / "trained.json").unlink()
    return run, results(run)


def test_a_stopped_training_goes_on(finished: tuple[Run, dict[str, Any]]) -> None:
    run, _ = finished
    markers = {
        s: json.loads((run.run_folder(run.claim.training("one"), s) / "trained.json").read_text()) for s in (0, 1)
    }
    assert markers[0]["resumed"]
    assert not markers[1]["resumed"]
    assert markers[0]["steps"] == markers[1]["steps"] == 4


def test_what_is_finished_is_not_done_again(
    finished: tuple[Run, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, first = finished
    monkeypatch.setattr(cli, "main", lambda _: pytest.fail("trained again"))
    again = results(Run(run.claim, run.plan, run.out))
    assert again["scores"] == first["scores"]
    assert again["comparisons"] == first["comparisons"]


def test_the_mean_pose_is_in_every_table_and_untrained_networks_show_nothing(
    finished: tuple[Run, dict[str, Any]],
) -> None:
    _, result = finished
    rows = [row for row in result["scores"] if row["contender"] == "mean pose"]
    assert [row["test"] for row in rows] == ["inside", "half"]
    assert all(150 < row["mpjpe"][0] < 450 for row in rows)
    assert {row["verdict"] for row in result["comparisons"]} == {"not learned"}


def test_a_difference_is_that_of_the_scores(finished: tuple[Run, dict[str, Any]]) -> None:
    _, result = finished
    half = {row["contender"]: np.mean(row["mpjpe"]) for row in result["scores"] if row["test"] == "half"}
    assert result["comparisons"][0]["mean"] == pytest.approx(half["one"] - half["two"], abs=1e-6)
    assert result["comparisons"][0]["people"] == 8


def test_results_are_published_as_json_table_and_plot(finished: tuple[Run, dict[str, Any]], tmp_path: Path) -> None:
    run, result = finished
    text = tables(result, run.claim)
    assert "| mean pose | half |" in text
    assert "| **one - two** | **half** | **MPJPE** |" in text
    page = tmp_path / "claims.md"
    page.write_text("# Page\n\n<!-- results: tiny -->\n<!-- end of results -->\n\nThe end.\n")
    publish(result, run.claim, tmp_path)
    publish(result, run.claim, tmp_path)
    assert page.read_text().count("| **one - two** |") == 1
    assert page.read_text().endswith("The end.\n")
    picture = (tmp_path / "claims" / "tiny.svg").read_text()
    assert picture.startswith("<?xml")
    recipe = yaml.safe_load((run.run_folder(run.claim.training("two"), 0) / "recipe.yaml").read_text())
    assert recipe["model"]["init_args"]["centered_stride"] is False


@pytest.mark.parametrize("name", CLAIMS)
def test_the_page_holds_the_published_results(name: str) -> None:
    """docs/claims.md is made from docs/claims/*.json; a claim without a file has not been run, and the page says so."""
    page, path = (DOCS / "claims.md").read_text(encoding="utf-8"), DOCS / "claims" / f"{name}.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    assert with_results(page, CLAIMS[name], result) == page


# ---------------------------------------------------------------------------------------------------- command


def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["truncations"]) == 2
    assert "unknown claim 'truncations': choose from truncation, absolute" in capsys.readouterr().err
    assert command.main(["truncation", "--budget", "soon"]) == 2
    assert "'soon' is no budget: give CPU time such as 2m" in capsys.readouterr().err


def test_plans_are_told_before_anything_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["hemlets", "--budget", "2h", "--plan"]) == 0
    steps = make_plan(CLAIMS["hemlets"], "2h").steps
    assert f"24 trainings of {steps} steps, 12000 training and 2000 test people" in capsys.readouterr().out
    assert command.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_runs_at_a_budget_of_seconds(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([name, "--budget", "5s", "--workers", "0", "--out", str(tmp_path / "runs")]) == 0
    assert "mean pose" in capsys.readouterr().out
    (path,) = (tmp_path / "runs").glob(f"{name}/*/results.json")
    assert json.loads(path.read_text())["claim"] == name
