"""What runs beside the GPU: a warm ensemble that contours one scan at a time.

Loaded by ``dask worker --preload limn.node.contour.worker CONFIG``; the model is warm before the
worker takes its first job. The engine imports `run_job` from here and stays free of torch, so
nothing heavy is imported at the top.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
from distributed import get_worker

from limn import __version__
from limn.domain.errors import LimnError, RefusedSeries, StageFailed
from limn.domain.files import may_pass
from limn.domain.scan import Organ, Role, by_role, pack_labels
from limn.domain.timing import RUNTIME_STAGES, Stopwatch
from limn.node import oplog
from limn.node.config import Config, load_config
from limn.node.contour.allocation import KIND, TOPIC
from limn.node.contour.job import UNFIT, Job, Result
from limn.node.contour.site_bundle import algorithm_of, kind_of, style_of
from limn.node.heartbeat import HEART, LIMIT_S
from limn.node.host import lifetime

if TYPE_CHECKING:
    from limn.dicom.rtstruct import Identity
    from limn.dicom.series import Instance
    from limn.node.contour.animal_names import AnimalName
    from limn.node.contour.pipeline import Options, Product
    from limn.segment.bundle.bundle import Bundle
    from limn.segment.draw.animals.located import Place
    from limn.segment.draw.derived import DerivedRoi
    from limn.segment.engine.ensemble import Ensemble

log = logging.getLogger(__name__)

# Exit code of a worker that could not load its ensemble.
NOT_WARM = 5


@dataclass(frozen=True, slots=True)
class Warm:
    """A loaded ensemble with the options of this host's config."""

    ensemble: Ensemble
    options: Options

    @property
    def kind(self) -> str:
        """Which limn and which bundle; a node's scans only go to workers of its own kind."""
        return kind_of(self.ensemble.bundle)


class _Unfit(Exception):
    """A host that can't take the scan; another one may."""


@click.command()
@click.argument("config_path", type=click.Path(path_type=Path))
def dask_setup(worker: Any, config_path: Path) -> None:
    """Load and warm the ensemble before the worker registers."""
    from limn.node.contour.pipeline import rehearse  # noqa: PLC0415

    config = load_config(config_path)
    oplog.set_up(config.data_dir, "worker", config.log)
    logging.getLogger("distributed.worker").addFilter(_without_stack)
    lifetime.end_with_supervisor()
    try:
        warm = warm_up(config, [config.verdicts_dir])
        rehearse(warm.ensemble, warm.options)
    except Exception:
        # Dask would go on without an ensemble; after this exit the supervisor starts a new worker.
        log.exception("this worker can't warm up its model; it ends and is started again")
        logging.shutdown()
        os._exit(NOT_WARM)
    offer(worker, warm)


def _without_stack(record: logging.LogRecord) -> bool:
    """Drop the stack: forty lines of Dask's own when a scheduler or a link is gone."""
    record.exc_info = None
    return True


def offer(worker: Any, warm: Warm) -> None:
    """Give the Dask worker its ensemble; its heartbeat names the kind to every node."""
    worker.extensions[KIND] = warm
    worker.metrics[KIND] = lambda _: warm.kind
    lifetime.beat_in(worker.loop)
    log.info("warm on %s", warm.ensemble.description)


def warm_up(config: Config, kept_in: Sequence[Path] = ()) -> Warm:
    """Verify the bundle, decide on int8, load every fold, run each once.

    Parameters
    ----------
    kept_in : folders of verdicts on int8, beside the user's cache
    """
    import torch  # noqa: PLC0415

    from limn.segment.bundle.bundle import open_bundle  # noqa: PLC0415
    from limn.segment.engine.ensemble import Ensemble  # noqa: PLC0415
    from limn.segment.engine.int8 import with_int8  # noqa: PLC0415
    from limn.segment.judge.judge_of_bundle import judge_of  # noqa: PLC0415

    device = config.model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bundle = open_bundle(config.model.bundle)
    # A judge that can't be read is found before an animal is asleep.
    judge_of(bundle)
    if device == "cpu" and config.model.int8:
        bundle = with_int8(bundle, log.info, kept_in)
    ensemble = Ensemble.load(
        bundle, device, config.model.profile or bundle.profile, mirroring=config.model.mirroring
    )
    ensemble.warm_up()
    if ensemble.lost_gpu:
        log.error(
            "model.device is %s, but the GPU can't be used (%s): this worker computes on the CPU, "
            "every scan takes longer and is flagged gpu-failed:cpu; look at the GPU and its driver",
            config.model.device,
            ensemble.lost_gpu,
        )
    return Warm(ensemble, options_of(config, bundle))


def options_of(site: Config | Job, bundle: Bundle) -> Options:
    """The pipeline's options in a site's config, or in a job from that site."""
    from limn.node.contour.pipeline import Options  # noqa: PLC0415

    return Options(
        two_animals=site.model.two_animals,
        assume_hu=site.model.assume_hu,
        style=style_of(site.planning_system, bundle, site.roi),
        max_points=site.planning_system.max_points,
        calibrate=site.model.calibrate,
        hold=site.judge.hold,
        rois=site.roi,
    )


def ready() -> str:
    """What this worker computes on; the engine's first call opens every connection."""
    return _warm_here().ensemble.description


def _warm_here() -> Warm:
    """The ensemble of the Dask worker that runs this task."""
    warm: Warm = get_worker().extensions[KIND]
    return warm


def run_job(job: Job, label: str, pixels: bytes | None = None) -> Result:
    """Contour one scan on this worker's warm ensemble.

    If it takes longer than the deadline the process ends, even while native code holds the
    interpreter lock; Dask then reports the worker's death.

    Parameters
    ----------
    label : StructureSetLabel
    pixels : the bytes of all files in a row; None to open the files under the job's paths
    """
    worker = get_worker()
    worker.log_event(TOPIC, {"started": worker.get_current_task()})
    faulthandler.dump_traceback_later(job.deadline_s, exit=True)
    try:
        with (
            # Native code may hold the interpreter lock, and with it the event loop, until then.
            HEART.allowing(job.deadline_s + LIMIT_S),
            oplog.about(scan=f"scan-{job.scan:05d}", animal=job.animal),
        ):
            # Log the start, so that after a crash the last line names the scan.
            log.info("begins%s, %d files", " PREVIEW" if job.preview else "", len(job.paths))
            return _result_or_failure(job, lambda began: _contour_sent(job, label, began, pixels))
    finally:
        faulthandler.cancel_dump_traceback_later()
        worker.log_event(TOPIC, {"ended": worker.get_current_task()})


def contour_here(job: Job, label: str, warm: Warm) -> Result:
    """Contour one scan in this process, as a worker would, on an ensemble that is warm."""
    paths = [Path(path) for path in job.paths]
    return _result_or_failure(
        job, lambda began: _contour(job, label, warm, began, paths, Stopwatch())
    )


def _result_or_failure(job: Job, work: Callable[[float], Result]) -> Result:
    """The result of ``work``, called with its start (UTC s), or the reason why there is none."""
    started_at = time.time()
    try:
        return work(started_at)
    except LimnError as error:
        return _failure(job, started_at, error)
    except _Unfit as error:
        return Result(scan=job.scan, started_at=started_at, ended=UNFIT, reason=str(error))
    except Exception as error:  # noqa: BLE001 - any error ends this scan, none ends the worker
        if isinstance(error, OSError) and may_pass(error):
            reason = f"{error.filename or 'a file'}: {error.strerror}"
            return Result(scan=job.scan, started_at=started_at, ended=UNFIT, reason=reason)
        reason = traceback.format_exc()
        return Result(scan=job.scan, started_at=started_at, ended="failed", reason=reason)


def _failure(job: Job, started_at: float, error: LimnError) -> Result:
    ended = "refused" if isinstance(error, RefusedSeries) else "failed"
    return Result(scan=job.scan, started_at=started_at, ended=ended, reason=str(error))


@contextmanager
def _files(job: Job, pixels: bytes | None, stopwatch: Stopwatch) -> Iterator[list[Path]]:
    """The scan's files where this host can open them.

    Raises
    ------
    StageFailed
        If this host can't open the job's paths.
    _Unfit
        If the bytes can't be written to this host's disk.
    """
    paths = [Path(path) for path in job.paths]
    if pixels is None:
        if not paths[0].exists():
            msg = (
                f"{paths[0]} can't be opened on worker {get_worker().address}; share the "
                'folder with that host under the same path, or set engine.pixels = "bytes"'
            )
            raise StageFailed(msg)
        yield paths
        return
    # The decoders read files only.
    with ExitStack() as temporary:
        try:
            with stopwatch.stage("transfer_s"):
                here = _written(job, pixels, temporary)
        except OSError as error:
            msg = (
                f"the scan's files can't be written to {get_worker().local_directory} "
                f"({error.strerror}); make room on the disk of that host"
            )
            raise _Unfit(msg) from error
        yield here


def _written(job: Job, pixels: bytes, temporary: ExitStack) -> list[Path]:
    """Write the files that came as bytes, into a folder that ``temporary`` removes."""
    folder = temporary.enter_context(
        TemporaryDirectory(
            dir=get_worker().local_directory, prefix="scan-", ignore_cleanup_errors=True
        )
    )
    # Files of a cohort may have one name in several folders.
    here = [Path(folder, f"{number}-{Path(path).name}") for number, path in enumerate(job.paths)]
    start = 0
    for path, size in zip(here, job.sizes, strict=True):
        path.write_bytes(memoryview(pixels)[start : start + size])
        start += size
    return here


def _contour_sent(job: Job, label: str, started_at: float, pixels: bytes | None) -> Result:
    stopwatch = Stopwatch()
    with _files(job, pixels, stopwatch) as paths:
        return _contour(job, label, _warm_here(), started_at, paths, stopwatch)


def _contour(
    job: Job, label: str, warm: Warm, started_at: float, paths: list[Path], stopwatch: Stopwatch
) -> Result:
    from limn.dicom.volume import read_headers  # noqa: PLC0415
    from limn.node.contour.content import Content  # noqa: PLC0415

    with stopwatch.stage("read_s"):
        instances = read_headers(paths)
        content = Content(job, instances)
    ensemble, options = (
        warm.ensemble,
        replace(options_of(job, warm.ensemble.bundle), delivered=job.delivered),
    )
    identity = _identity(job, label, ensemble.bundle)
    if job.preview:
        identity = _preview_identity(identity, job, ensemble.bundle)
        # What is derived waits for the organs of all folds.
        options = replace(options, style=options.style.as_preview(), rois=())
        ensemble = ensemble.first_fold()
    work = _Work(job, instances, ensemble, options, identity, stopwatch, started_at)
    each = options.two_animals == "each" or job.one_of_several
    results = work.of_each() if each else work.of_one()
    content.check_unchanged()
    # The stages are those of the whole field: the animals leave the worker together.
    done = _durations(stopwatch) | {"finished_at": time.time()}
    first, *others = (replace(each, record=each.record | done) for each in results)
    return replace(first, others=tuple(others))


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A job whose files are read, and what it needs."""

    job: Job
    instances: Sequence[Instance]
    ensemble: Ensemble
    options: Options
    identity: Identity
    stopwatch: Stopwatch
    started_at: float

    def of_one(self) -> list[Result]:
        """Contour the animal that the site's rule chooses."""
        from limn.node.contour.pipeline import contour  # noqa: PLC0415

        product = contour(
            self.instances,
            self.ensemble,
            self.identity,
            self.options,
            self.stopwatch,
            lambda done, total: None,
            self._scan_name,
        )
        return [self._result(product, self.identity.sop_instance_uid)]

    def of_each(self) -> list[Result]:
        """Contour each animal, or the one of the job's number; a preview is of the first alone."""
        from limn.node.contour.pipeline import contour_each  # noqa: PLC0415

        every = self.job.others and not self.job.preview
        only = None if every else self.job.animal_number
        each = contour_each(
            self.instances,
            self.ensemble,
            self._named,
            self.options,
            self.stopwatch,
            lambda done, total: None,
            only,
        )
        results = []
        for place, product in each:
            uid, _, _ = self._uids(place)
            if isinstance(product, LimnError):
                result = _failure(self.job, self.started_at, product)
            else:
                result = self._result(product, uid, self._name(place).flag)
            known = result.record | {"middle_xyz_mm": place.middle_xyz_mm}
            results.append(replace(result, animal_number=place.number, record=known))
        return results

    @property
    def _scan_name(self) -> str:
        # Scans that never were in a journal have no number.
        return f"scan-{self.job.scan:05d}" if self.job.scan else ""

    def _uids(self, place: Place) -> tuple[str, str, str]:
        """SOP and Series Instance UID of an animal's structure set, and what it replaces."""
        job = self.job
        own = (job.sop_instance_uid, job.series_instance_uid, self.identity.predecessor_uid)
        return (own, *job.others)[place.number - job.animal_number]

    def _name(self, place: Place) -> AnimalName:
        from limn.node.contour.animal_names import name_of  # noqa: PLC0415

        return name_of(place, self.job.model, self.instances[0].header)

    def _named(self, place: Place) -> tuple[Identity, str]:
        name, (sop_uid, series_uid, predecessor) = self._name(place), self._uids(place)
        identity = replace(
            self.identity,
            sop_instance_uid=sop_uid,
            series_instance_uid=series_uid,
            predecessor_uid=predecessor,
            # The label of a preview says that it is one, and has no room for more.
            label=self.identity.label if self.job.preview else name.label(self.identity.label),
            animal=name.words,
        )
        return identity, self._scan_name if place.number == self.job.animal_number else ""

    def _result(self, product: Product, sop_instance_uid: str, flag: str = "") -> Result:
        # The labels are packed in the picture's time: both are for people, not for the peer.
        with self.stopwatch.stage("picture_s"):
            labels = pack_labels(product.labels.labels_zyx, product.disagreement_zyx)
        return Result(
            scan=self.job.scan,
            started_at=self.started_at,
            structure_set=product.structure_set,
            picture=product.picture,
            labels=labels,
            record={"started_at": self.started_at, **_record(product, self.ensemble, flag)},
            held=product.held,
            sop_instance_uid=sop_instance_uid,
        )


def _identity(job: Job, label: str, bundle: Bundle) -> Identity:
    from limn.dicom.rtstruct import Identity  # noqa: PLC0415

    return Identity(
        sop_instance_uid=job.sop_instance_uid,
        series_instance_uid=job.series_instance_uid,
        date=job.date,
        time=job.time,
        label=label,
        software=__version__,
        algorithm=algorithm_of(bundle),
        algorithm_version=bundle.sha256,
        predecessor_uid=job.predecessor_uid,
    )


def _preview_identity(identity: Identity, job: Job, bundle: Bundle) -> Identity:
    from limn.dicom.rtstruct import preview_label  # noqa: PLC0415

    label = job.planning_system.structure_set_label
    return replace(
        identity,
        label=preview_label(label, demonstration=bundle.demonstration),
        preview=f"one fold of {len(bundle.folds)}; the contours of all folds follow",
    )


def _durations(stopwatch: Stopwatch) -> dict[str, float]:
    """The stages of a scan, and the paper's sum of some."""
    runtime_s = sum(stopwatch.elapsed_s.get(stage, 0.0) for stage in RUNTIME_STAGES)
    return {**stopwatch.elapsed_s, "runtime_s": runtime_s}


def _record(product: Product, ensemble: Ensemble, flag: str) -> dict[str, Any]:
    """The columns of the `ScanRecord` that follow from what was contoured, and how."""
    z, y, x = product.labels.grid.shape_zyx
    mm = product.labels.grid.spacing_mm
    return {
        "limn_version": __version__,
        "bundle": ensemble.bundle.label,
        "bundle_sha256": ensemble.bundle.sha256,
        "device": ensemble.description,
        "ensemble_profile": ensemble.profile.name,
        "grid": f"{x}x{y}x{z} {mm.x:.4f}x{mm.y:.4f}x{mm.z:.4f} mm",
        "flags": " ".join((*product.flags, flag)).strip(),
        "light": str(product.verdict.light),
        **_by_role(product, ensemble.bundle.roles),
        "rois": [
            *(_roi(product, organ, ensemble.bundle) for organ in product.volumes_mm3),
            *(_derived(product, roi) for roi in product.rois.derived),
        ],
    }


def _by_role(product: Product, roles: Mapping[Role, Organ]) -> dict[str, Any]:
    """The columns of heart, cord and lungs."""
    predicted = {
        organ: round(quality.dsc.middle, 3) for organ, quality in product.verdict.quality.items()
    }
    lights = {organ: str(product.verdict.light_of(organ) or "") for organ in product.volumes_mm3}
    values: tuple[tuple[str, Mapping[Organ, Any]], ...] = (
        ("mm3", product.volumes_mm3),
        ("removed_voxels", product.removed_voxels),
        ("fold_dsc", product.fold_dsc),
        ("light", lights),
        ("predicted_dsc", predicted),
    )
    return {
        f"{role}_{name}": value
        for name, by_organ in values
        for role, value in by_role(by_organ, roles).items()
    }


def _derived(product: Product, roi: DerivedRoi) -> dict[str, Any]:
    """The columns of the `RoiRecord` of an ROI that no network drew."""
    voxels = int(roi.mask_zyx.sum())
    return {
        "roi": product.roi_names[roi.name],
        "derived": roi.how,
        "volume_mm3": voxels * product.labels.grid.spacing_mm.voxel_mm3,
        "mean_hu": product.mean_hu.get(roi.name),
    }


def _roi(product: Product, organ: Organ, bundle: Bundle) -> dict[str, Any]:
    """The columns of the `RoiRecord` of an organ."""
    found: dict[str, Any] = {
        "organ": organ,
        "role": next((str(role) for role, own in bundle.roles.items() if own == organ), ""),
        "roi": product.roi_names[organ],
        "volume_mm3": product.volumes_mm3[organ],
        "mean_hu": product.mean_hu.get(organ),
        "removed_voxels": product.removed_voxels.get(organ),
        "fold_dsc": product.fold_dsc.get(organ),
        "light": str(product.verdict.light_of(organ) or ""),
    }
    quality = product.verdict.quality.get(organ)
    if quality is not None:
        found |= {
            "predicted_dsc": round(quality.dsc.middle, 3),
            "predicted_dsc_low": round(quality.dsc.low, 3),
            "predicted_dsc_high": round(quality.dsc.high, 3),
            "predicted_hd95_mm": round(quality.hd95_mm.middle, 2),
        }
    return found
