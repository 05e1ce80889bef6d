"""On the PYTHONPATH of a node under test: its pipeline finds every animal M9... or T9... mirrored.

Python imports this at its start. The pipeline is changed once it is imported and in no other
process, so that the engine stays free of torch.
"""

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

WHY = "mirrored image: the axis along columns is flipped"
NOTE = "mirrored image: held for release"


class Holding:
    """Finds the pipeline as ever, then puts another contour in its place."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """The pipeline's spec, with a loader that also changes it; None for anything else."""
        if name != "limn.node.contour.pipeline":
            return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = load_and_change
        return spec


def change(pipeline: ModuleType) -> None:
    """As if a detector in the pipeline had found what it looks for."""
    contour, build = pipeline.contour, pipeline.rtstruct.build

    def held(scan, *rest, **more):
        # A command gives the scan that it has read, a worker gives files.
        header = scan.series.first if hasattr(scan, "series") else scan[0].header
        if not str(header.PatientID).startswith(("M9", "T9")):
            return contour(scan, *rest, **more)
        pipeline.rtstruct.build = lambda *given, notes, **more: build(
            *given, notes=[NOTE, *notes], **more
        )
        try:
            return replace(contour(scan, *rest, **more), held=WHY)
        finally:
            pipeline.rtstruct.build = build

    pipeline.contour = held


sys.meta_path.insert(0, Holding())
