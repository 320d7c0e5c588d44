"""`posezoo prepare`: every person of a dataset as a small JPEG and one row of one index.

    root/prepared.npz                      labels, cameras and names of all people
    root/people/train/0000/0000123.jpg     the part of the source image that augmented crops can see, shrunk

Cameras, boxes and joints stay those of the source image, and the index knows where in it each JPEG lies. So a batch
from prepared data differs from one of the original files in its pixels only, and in those by little.
"""
