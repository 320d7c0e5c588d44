"""Pictures of poses. Nothing here is imported unless something is drawn.

One colour convention everywhere: the person's left is blue, their right is orange, the middle is neutral
grey. Blue and orange stay apart for every common kind of colour blindness.
"""
