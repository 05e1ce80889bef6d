"""From a job whose files are here to its results: the pipeline, identities, the record."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limn import __version__
from limn.domain.errors import LimnError, RefusedSeries
from limn.domain.scan import Organ, Role, by_role, pack_labels
from limn.domain.timing import RUNTIME_STAGES, Stopwatch
from limn.node.contour.job import Job, Result
from limn.node.contour.site_bundle import algorithm_of
from limn.node.contour.work.ahead import ReadAhead
from limn.node.contour.work.progress import Progress
from limn.node.contour.work.warm import Warm, options_of

if TYPE_CHECKING:
    from limn.dicom.rtstruct import Identity
    from limn.dicom.series import Instance
    from limn.node.contour.animal_names import AnimalName
    from limn.node.contour.pipeline import OpenScan, Options, Product
    from limn.segment.bundle.bundle import Bundle
    from limn.segment.draw.animals.located import Place
    from limn.segment.draw.derived import DerivedRoi
    from limn.segment.engine.ensemble import Ensemble

log = logging.getLogger(__name__)


def contour_job(
    job: Job,
    label: str,
    warm: Warm,
    started_at: float,
    paths: list[Path],
    stopwatch: Stopwatch,
    progress: Progress,
    read: ReadAhead | None = None,
) -> Result:
    """Contour the scan in these files.

    Parameters
    ----------
    read : what is known of the files already

    Raises
    ------
    LimnError
        If it can't be contoured.
    OSError
        If its files can't be read just now.
    """
    from limn.node.contour.work.content import Content  # noqa: PLC0415

    read = read or ReadAhead()
    with stopwatch.stage("read_s"):
        instances = _instances(paths, read)
        content = Content(job, instances, read.files)
        scan = _opened(job, instances, warm, read)
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
    work = _Work(job, instances, scan, ensemble, options, identity, stopwatch, started_at, progress)
    each = options.two_animals == "each" or job.one_of_several
    results = work.of_each() if each else work.of_one()
    content.check_unchanged()
    # The stages are those of the whole field: the animals leave the worker together.
    done = _durations(stopwatch) | {"finished_at": time.time()}
    first, *others = (replace(each, record=each.record | done) for each in results)
    return replace(first, others=tuple(others))


def _instances(paths: Sequence[Path], read: ReadAhead) -> list[Instance]:
    from limn.dicom.volume import read_headers  # noqa: PLC0415

    unread = [path for path in paths if path not in read.files]
    known = {path: each.instance for path, each in read.files.items()}
    known.update(zip(unread, read_headers(unread), strict=True))
    return [known[path] for path in paths]


def _opened(job: Job, instances: Sequence[Instance], warm: Warm, read: ReadAhead) -> OpenScan:
    from limn.node.contour.pipeline import open_scan  # noqa: PLC0415

    # Another site may have sent the job, with a rule of its own.
    if read.opened is not None and job.model.assume_hu == warm.options.assume_hu:
        return read.opened
    species, assume_hu = warm.ensemble.bundle.species, job.model.assume_hu
    return open_scan(instances, species, assume_hu=assume_hu, pixels=read.pixels)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A job whose files are read, and what it needs."""

    job: Job
    instances: Sequence[Instance]
    scan: OpenScan
    ensemble: Ensemble
    options: Options
    identity: Identity
    stopwatch: Stopwatch
    started_at: float
    progress: Progress

    def of_one(self) -> list[Result]:
        """Contour the animal that the site's rule chooses."""
        from limn.node.contour.pipeline import contour  # noqa: PLC0415

        product = contour(
            self.scan,
            self.ensemble,
            self.identity,
            self.options,
            self.stopwatch,
            self.progress.tiles,
            self._scan_name,
        )
        return [self._result(product, self.identity.sop_instance_uid)]

    def of_each(self) -> list[Result]:
        """Contour each animal, or the one of the job's number; a preview is of the first alone."""
        from limn.node.contour.pipeline import contour_each  # noqa: PLC0415

        every = self.job.others and not self.job.preview
        only = None if every else self.job.animal_number
        each = contour_each(
            self.scan,
            self.ensemble,
            self._named,
            self.options,
            self.stopwatch,
            self.progress.tiles,
            only,
        )
        results = []
        for place, product in each:
            uid, _, _ = self._uids(place)
            if isinstance(product, LimnError):
                result = failed(self.job, self.started_at, product)
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

        given = self.job.animal_name if place.number == self.job.animal_number else ""
        return name_of(place, self.job.model, self.instances[0].header, given)

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
        # Labels and forms are made in the picture's time: they are for people, not for the peer.
        with self.stopwatch.stage("picture_s"):
            labels = pack_labels(
                product.labels,
                product.disagreement_zyx,
                product.series.rungs,
                self.options.style.colours,
            )
            forms = self._forms(product)
        return Result(
            scan=self.job.scan,
            started_at=self.started_at,
            structure_set=product.structure_set,
            picture=product.picture,
            labels=labels,
            forms=forms,
            record={"started_at": self.started_at, **_record(product, self.ensemble, flag)},
            held=product.held,
            sop_instance_uid=sop_instance_uid,
        )

    def _forms(self, product: Product) -> dict[str, bytes]:
        from limn.node.contour.work.forms import forms_in_memory  # noqa: PLC0415

        if not self.job.forms or self.job.preview:
            return {}
        files, failure = forms_in_memory(product, self.options.style, self.job.forms)
        if failure:
            log.warning("%s: %s", self._scan_name, failure)
        return files


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
        # For the board: why each light is not green.
        "concerns": [
            {"light": str(each.light), "organ": each.organ or "", "reason": each.reason}
            for each in product.verdict.concerns
        ],
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


def failed(job: Job, started_at: float, error: LimnError) -> Result:
    """Why there is no structure set."""
    ended = "refused" if isinstance(error, RefusedSeries) else "failed"
    return Result(scan=job.scan, started_at=started_at, ended=ended, reason=str(error))
