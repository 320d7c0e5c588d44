"""Published evaluation protocols by name: which people and frames, joints, alignment and averaging make a number.

    protocol = get_protocol("h36m_p2_moon")
    protocol.check_subjects(found)                      # refuses other subjects
    result = protocol.score(pred, target, valid, action=action)
    print(protocol.definition, result.values)

Here is the table; the classes are in `metrics.protocol_kinds`, what they are put together from in
`metrics.protocol_parts`. Selecting frames is up to the data, with `Protocol.keeps`. docs/protocols.md tells the
conventions apart.
"""

from functools import partial

from posezoo.errors import PoseZooError, did_you_mean
from posezoo.metrics import functional as F
from posezoo.metrics.protocol_kinds import (
    Keypoints2D,
    MultiPerson,
    Protocol,
    ReleasedHEMlets,
    Result,
    SinglePerson,
    check_joints,
)
from posezoo.metrics.protocol_parts import (
    ALL,
    H36M_16,
    H36M_17,
    LSP_14,
    MPI_14_HEAD,
    MPI_14_PELVIS,
    MPI_17,
    OVER_ACTIONS,
    REVERSED,
    RIGID,
    ROOT,
    SMPL_24,
    SMPL_LIMBS,
    Measure,
    auc31,
    mpjpe,
    pa_mpjpe,
    pck150,
)

__all__ = [
    "PROTOCOLS",
    "S9_CORRECTED",
    "S9_RELEASED",
    "S9_SHIFTED",
    "SMPL_JOINTS",
    "Keypoints2D",
    "Measure",
    "MultiPerson",
    "Protocol",
    "ReleasedHEMlets",
    "Result",
    "SinglePerson",
    "check_joints",
    "get_protocol",
]

S9_S11 = ("S9", "S11")
# Recordings whose labels are 200 mm off along x (isarandi/metrabs); root-relative scores do not notice, boxes do.
S9_SHIFTED = ("S9 Greeting", "S9 SittingDown 1", "S9 Waiting 1")

# What `PoseDataModule.annotation` answers where a dataset has several truths.
S9_RELEASED, S9_CORRECTED = "s9_as_released", "s9_corrected"
UNIVERSAL, METRIC = "univ_annot3", "annot3"
SMPL_JOINTS, H36M_REGRESSOR = "smpl_joints", "h36m_regressor"

_METRIC_JOINTS = "metric joints of each subject's own skeleton"
_S9_AS_RELEASED = f"{_METRIC_JOINTS}, no S9 corrections ({', '.join(S9_SHIFTED)} stay 200 mm off)"
_S9_CORRECTED = f"{_METRIC_JOINTS}, S9 corrections ({', '.join(S9_SHIFTED)} moved back 200 mm)"
_S9_UNUSED = f"{_METRIC_JOINTS}, no S9 corrections (S9 is not scored)"
_FIVE = "S1, S5, S6, S7, S8"
_h36m = partial(
    SinglePerson,
    dataset="Human3.6M",
    skeleton="h36m17",
    truth=_S9_AS_RELEASED,
    annotation=S9_RELEASED,
    complete=True,
)

_pavllo = partial(
    _h36m,
    subjects=S9_S11,
    trained_on=_FIVE,
    frames="every frame at 50 fps of all 4 cameras",
    left_out=("S11 Directions",),
    averaging=OVER_ACTIONS,
)
_moon = partial(_h36m, frames="every 64th frame of all 4 cameras", frame_step=64)
_spin = partial(_h36m, subjects=S9_S11, trained_on=_FIVE, frame_step=5)

_HUMAN36M = (
    _pavllo(
        name="h36m_p1_pavllo",
        measures=(mpjpe(H36M_17),),
        source="Pavllo et al., CVPR 2019, protocol 1, after Martinez et al., ICCV 2017; facebookresearch/VideoPose3D",
    ),
    _pavllo(
        name="h36m_p2_pavllo",
        measures=(pa_mpjpe(H36M_17),),
        source="Pavllo et al., CVPR 2019, protocol 2; facebookresearch/VideoPose3D",
    ),
    _pavllo(
        name="h36m_p1_semgcn",
        measures=(mpjpe(H36M_16),),
        source="Zhao et al., CVPR 2019, protocol 1: the 16 joints that stacked-hourglass detections have",
    ),
    _pavllo(
        name="h36m_p2_semgcn",
        measures=(pa_mpjpe(H36M_16),),
        source="Zhao et al., CVPR 2019, protocol 2",
    ),
    _moon(
        name="h36m_p1_moon",
        subjects=("S11",),
        truth=_S9_UNUSED,
        annotation="",
        trained_on=f"{_FIVE}, S9",
        measures=(pa_mpjpe(H36M_17, RIGID),),
        source="Moon et al., ICCV 2019, protocol 1, as mks0601/3DMPPE_POSENET_RELEASE aligns it",
    ),
    _moon(
        name="h36m_p1_moon_similarity",
        subjects=("S11",),
        truth=_S9_UNUSED,
        annotation="",
        trained_on=f"{_FIVE}, S9",
        measures=(pa_mpjpe(H36M_17),),
        source="the same with the usual PA-MPJPE, as Sun et al., ECCV 2018, define protocol 1",
    ),
    _moon(
        name="h36m_p2_moon",
        subjects=S9_S11,
        trained_on=_FIVE,
        measures=(mpjpe(H36M_17),),
        source="Moon et al., ICCV 2019, protocol 2; Sun et al., ECCV 2018; Chen et al., ECCV 2020",
    ),
    _moon(
        name="h36m_metrabs",
        subjects=S9_S11,
        trained_on=_FIVE,
        measures=(mpjpe(H36M_17), pa_mpjpe(H36M_17)),
        truth=_S9_CORRECTED,
        annotation=S9_CORRECTED,
        source="Sarandi et al., T-BIOM 2020; isarandi/metrabs",
    ),
    _spin(
        name="h36m_p1_spin",
        frames="every 5th frame of all 4 cameras",
        measures=(mpjpe(LSP_14), pa_mpjpe(LSP_14)),
        source="Kanazawa et al., CVPR 2018, protocol 1; nkolot/SPIN h36m-p1",
    ),
    _spin(
        name="h36m_p2_spin",
        frames="every 5th frame of the frontal camera 60457274",
        cameras=("60457274",),
        measures=(mpjpe(LSP_14), pa_mpjpe(LSP_14)),
        source="Kanazawa et al., CVPR 2018, protocol 2; nkolot/SPIN h36m-p2",
    ),
    ReleasedHEMlets(
        name="hemlets_released",
        dataset="Human3.6M",
        subjects=("S11",),
        trained_on="S1, S5, S6, S7, S8 and MPII",
        frames="every frame at 50 fps of all 4 cameras",
        skeleton="h36m17",
        measures=(mpjpe(H36M_17), pa_mpjpe(H36M_17, REVERSED)),
        averaging=OVER_ACTIONS,
        complete=True,
        truth="as given, probably the universal skeleton (no S9 in it); root depth by matching 15 constant bone "
        "lengths with f = 1150 px, which leak the subject's bones where the truth is that skeleton",
        source="redrock303/HEMlets, inference/metric_3d.py",
    ),
)

_3dhp = partial(
    SinglePerson,
    dataset="MPI-INF-3DHP",
    subjects=tuple(f"TS{n}" for n in range(1, 7)),
    subject_word="sequences",
    frames="valid frames only (valid_frame), about 2929",
    skeleton="mpi_inf_3dhp_17",
)
_UNIVERSAL = "universal skeleton (univ_annot3, normalised height), on which the method was trained too"
_METRIC = "metric skeleton (annot3, true size), on which the method was trained too"

_MPI_INF_3DHP = (
    _3dhp(
        name="mpi_inf_3dhp",
        measures=(pck150(MPI_14_PELVIS), auc31(MPI_14_PELVIS), mpjpe(MPI_14_PELVIS)),
        truth=_UNIVERSAL,
        annotation=UNIVERSAL,
        source="Mehta et al., 3DV 2017, and its test utility",
    ),
    _3dhp(
        name="mpi_inf_3dhp_metric",
        measures=(pck150(MPI_14_PELVIS), auc31(MPI_14_PELVIS), mpjpe(MPI_14_PELVIS)),
        truth=_METRIC,
        annotation=METRIC,
        source="the same on true body sizes, the only labels in mmpose's layout",
    ),
    _3dhp(
        name="mpi_inf_3dhp_posepile",
        measures=(pck150(MPI_14_HEAD), auc31(MPI_14_HEAD), mpjpe(MPI_17)),
        truth=_UNIVERSAL,
        annotation=UNIVERSAL,
        source="isarandi/posepile ds/tdhp/eval.py (MeTRAbs' later models)",
    ),
)

_3DPW = (
    SinglePerson(
        name="3dpw",
        dataset="3DPW",
        subjects=("train", "validation", "test"),
        subject_word="splits",
        trained_on="no 3DPW",
        frames="all frames of all sequences with a valid camera and 2D annotation",
        skeleton="smpl24",
        measures=(
            mpjpe(SMPL_24),
            pa_mpjpe(SMPL_24),
            Measure(
                "pck50", "PCK <= 50 mm", "%", SMPL_LIMBS, ROOT, partial(F.pck_scores, threshold=50.0, inclusive=True)
            ),
            Measure("auc", "AUC of <= 0 .. 199 mm", "0..1", SMPL_LIMBS, ROOT, F.auc_3dpw_scores),
        ),
        groups="sequence",
        truth="SMPL joints of each person's own body shape",
        annotation=SMPL_JOINTS,
        source="the 3DPW challenge (ECCV 2020); aymenmir1/3dpw-eval",
    ),
    SinglePerson(
        name="3dpw_test14",
        dataset="3DPW",
        subjects=("test",),
        subject_word="splits",
        frames="all frames of the test sequences with a valid camera",
        skeleton="h36m17",
        measures=(mpjpe(LSP_14), pa_mpjpe(LSP_14)),
        groups="sequence",
        truth="joints regressed from the SMPL mesh by the Human3.6M regressor, pelvis too",
        annotation=H36M_REGRESSOR,
        source="Kolotouros et al., ICCV 2019; nkolot/SPIN",
    ),
)

_mupots = partial(
    MultiPerson,
    dataset="MuPoTS-3D",
    subjects=tuple(f"TS{n}" for n in range(1, 21)),
    subject_word="sequences",
    trained_on="no MuPoTS-3D",
    frames="all valid frames",
    source="Mehta et al., 3DV 2018, and its MATLAB evaluation, through isarandi/posepile ds/mupots/eval.py",
)
_MUPOTS_JOINTS = "14 (head_top to ankles) of mupots17; matched in 2D on 13 within 40 px"
_RESCALED = "pelvis moved to the origin for the relative scores; predicted bones rescaled to the truth's lengths"
_RECALL = ("recall", "recall", "recall of annotated people", "0..1")

_MUPOTS_3D = (
    _mupots(
        name="mupots",
        reported=(
            ("pck_rel", "univ_rootrel_rescale.pck_all_anno", "relative 3DPCK < 150 mm, missed people count 0", "%"),
            ("pck_abs", "univ_nonrootrel_rescale.pck_all_anno", "absolute 3DPCK < 150 mm, missed people count 0", "%"),
            ("auc_rel", "univ_rootrel_rescale.auc_all_anno", "relative AUC of < 0, 5, .. 150 mm", "%"),
            ("ap_root", "ap_root", "AP_root within 250 mm", "%"),
            _RECALL,
        ),
        joints=_MUPOTS_JOINTS,
        alignment=_RESCALED,
        truth="universal skeleton (univ_annot3), AP_root on the metric one",
    ),
    _mupots(
        name="mupots_matched",
        reported=(
            ("pck_rel", "univ_rootrel_rescale.pck_matched", "relative 3DPCK < 150 mm of matched people", "%"),
            ("pck_abs", "univ_nonrootrel_rescale.pck_matched", "absolute 3DPCK < 150 mm of matched people", "%"),
            ("auc_rel", "univ_rootrel_rescale.auc_matched", "relative AUC of < 0, 5, .. 150 mm", "%"),
            _RECALL,
        ),
        joints=_MUPOTS_JOINTS,
        alignment=_RESCALED,
        truth="universal skeleton (univ_annot3)",
    ),
    _mupots(
        name="mupots_metric",
        reported=(
            ("mpjpe_rel", "nonuniv_rootrel_norescale.mpjpe14", "relative MPJPE of matched people", "mm"),
            ("mpjpe_abs", "nonuniv_nonrootrel_norescale.mpjpe14", "absolute MPJPE of matched people", "mm"),
            ("pck_rel", "nonuniv_rootrel_norescale.pck_matched", "relative 3DPCK < 150 mm of matched people", "%"),
            ("pck_abs", "nonuniv_nonrootrel_norescale.pck_matched", "absolute 3DPCK < 150 mm of matched people", "%"),
            _RECALL,
        ),
        joints=_MUPOTS_JOINTS,
        alignment="pelvis moved to the origin for the relative scores; no rescaling of bones",
        truth="metric skeleton (annot3)",
    ),
)

_OTHERS = (
    Keypoints2D(
        name="mpii_pckh",
        dataset="MPII",
        subjects=("val",),
        subject_word="splits",
        trained_on="the train split",
        frames="all annotated people of single images",
        truth="joints with a label, in px of the original image; head size is 0.6 of the head rectangle's diagonal",
        source="Andriluka et al., CVPR 2014, averaged as mmpose does",
    ),
    SinglePerson(
        name="none",
        dataset="any data",
        subjects=(),
        frames="as given",
        skeleton="h36m17",
        measures=(mpjpe(ALL), pa_mpjpe(ALL), pck150(ALL), auc31(ALL)),
        truth="as given, not a benchmark",
        source="posezoo",
    ),
)

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (*_HUMAN36M, *_MPI_INF_3DHP, *_3DPW, *_MUPOTS_3D, *_OTHERS)}


def get_protocol(name: str) -> Protocol:
    """Find a protocol by its name.

    Raises:
        PoseZooError: No such protocol; the message names the nearest.
    """
    if name not in PROTOCOLS:
        raise PoseZooError(f"There is no protocol '{name}': {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]
