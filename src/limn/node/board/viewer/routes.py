"""What the viewer's script asks the board for: a scan's frame, its planes, its surfaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from limn.node.board.hidden_names import HiddenNames
from limn.node.board.viewer.ct import CtUnreadable
from limn.node.board.viewer.shown_labels import ShownLabels
from limn.node.board.viewer.surfaces import surfaces
from limn.node.board.viewer.viewing import Busy, NothingToShow, View, Viewing
from limn.node.config import Config
from limn.node.operate.journal_access import journal_to_read

# First byte of a plane: its HU are not there, follow, or are being read.
NO_HU, HU, HU_COMING = 0, 1, 2
HEAD_BYTES = 8
BINARY = "application/octet-stream"
# That read slices and labels at once; the whole board has forty.
MOST_THREADS = 6
# A browser keeps six connections to the board; those that wait here must come back to it.
TURN_S = 5.0
_Answer = TypeVar("_Answer")


class Viewer:
    """The viewer's part of a board.

    Parameters
    ----------
    scan_name : the scan of a request; refuses what is no name
    names : hidden ones never reach the script
    """

    def __init__(
        self, config: Config, scan_name: Callable[[Request], str], names: HiddenNames
    ) -> None:
        self._config = config
        self._names = names
        self._scan_name = scan_name
        self.viewing = Viewing(config)
        # A share that hangs keeps one thread for each scan that is looked at, and never all those
        # that the other pages need.
        self._few = asyncio.Semaphore(MOST_THREADS)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._meshing = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Below a scan's page."""
        return [
            Route("/{scan}/view.json", self.frame),
            Route("/{scan}/plane/{axis:int}/{index:int}", self.plane),
            Route("/{scan}/surfaces", self.surfaces),
        ]

    async def frame(self, request: Request) -> Response:
        """Shape, place and organs of a scan, and what of it can't be shown."""
        try:
            contents = await self._of(request, frame_of)
        except NothingToShow as error:
            contents = {"nothing": str(error)}
        except Busy as error:
            return _busy(error)
        return JSONResponse(await run_in_threadpool(self._names.over, contents))

    async def plane(self, request: Request) -> Response:
        """One plane, see `plane_of`."""
        axis, index = request.path_params["axis"], request.path_params["index"]
        return await _bytes(self._of(request, lambda view: plane_of(view, axis, index)))

    async def surfaces(self, request: Request) -> Response:
        """The surfaces of the organs, see `limn.node.board.viewer.surfaces`."""

        async def made() -> bytes:
            view = await self._of(request, lambda view: view)
            # Of one scan at a time, and once: it takes a processor for seconds.
            async with self._meshing:
                return await run_in_threadpool(_surfaces_of, view)

        return await _bytes(made())

    async def _of(self, request: Request, answer: Callable[[View], _Answer]) -> _Answer:
        name = self._scan_name(request)
        async with self._thread(name):
            return await run_in_threadpool(
                lambda: answer(self.viewing.known(name) or self._opened(name))
            )

    @asynccontextmanager
    async def _thread(self, name: str) -> AsyncIterator[None]:
        """A thread for a scan, which has one at a time; `Busy` if it does not come."""
        turn = self._turns.setdefault(name, asyncio.Lock())
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(TURN_S):
                    await stack.enter_async_context(turn)
                    await stack.enter_async_context(self._few)
            except TimeoutError as error:
                msg = f"the slices of {name} are still being read"
                raise Busy(msg) from error
            yield

    def _opened(self, name: str) -> View:
        with journal_to_read(self._config) as journal:
            row = journal.named([name]).get(name) if journal is not None else None
        if row is None:
            raise HTTPException(404, f"there is no {name}")
        return self.viewing.view_of(row)


async def _bytes(answer: Awaitable[bytes]) -> Response:
    try:
        return Response(await answer, media_type=BINARY)
    except NothingToShow as error:
        raise HTTPException(404, str(error)) from error
    except Busy as error:
        return _busy(error)


def _busy(error: Busy) -> Response:
    return PlainTextResponse(str(error), 503, headers={"Retry-After": "2"})


def frame_of(view: View) -> dict[str, Any]:
    """What the script must know before it asks for planes.

    ``shape`` counts planes across each axis, towards head, back and left. The array's own axes
    (z, y, x) of each are ``axes``, and ``flipped`` says which of them count the other way; by them
    a voxel's place follows from ``origins`` and the steps, as PS3.3 C.7.6.2.1.1 has it. ``state``
    is another number once slices or labels were written anew.
    """
    hanging, grid = view.hanging, view.grid
    spacing = hanging.turn.spacing(grid.spacing_mm)
    every = set(range(grid.shape_zyx[0]))
    labels, ct = view.labels, view.ct
    organs = {} if labels is None else labels.organs
    if ct is not None and ct.failed:
        view.no_planes = "other planes than axial ones could not be made; limn.log says why"
    return {
        "state": view.token,
        "shape": hanging.shape,
        "spacing_mm": spacing.zyx,
        "axes": hanging.turn.axes,
        "flipped": hanging.turn.flipped,
        "origins": grid.slice_origins_xyz_mm.tolist(),
        "step_y": (grid.spacing_y_mm * grid.along_y_xyz).tolist(),
        "step_x": (grid.spacing_x_mm * grid.along_x_xyz).tolist(),
        "missing": sorted(every - set(view.rungs.tolist())),
        "organs": [
            {"label": number, "name": name, "colour": colour}
            for number, (name, colour) in organs.items()
        ],
        "start": _start(view),
        "notes": [note for note in (view.no_ct, view.no_labels, view.no_planes) if note],
        "has_ct": ct is not None,
        "only_axial": bool(view.no_planes),
    }


def _start(view: View) -> list[int]:
    """The middle of the first organ that is there; of the scan if there is none."""
    hanging, labels = view.hanging, view.labels
    middle_zyx = [n // 2 for n in hanging.shape_zyx]
    if labels is not None and (middle := labels.middle()) is not None:
        middle_zyx = list(middle)
    return [hanging.place(axis, middle_zyx[hanging.turn.axes[axis]])[1] for axis in range(3)]


def plane_of(view: View, axis: int, index: int) -> bytes:
    """A plane as it hangs: eight bytes, then the parts that those announce.

    The first byte is `NO_HU`, `HU` or `HU_COMING`, the second and the third say whether labels
    and the folds' disagreement follow. The last four are the ``state`` of `frame_of`, little
    endian. HU are int16, little endian, the others uint8, row by row.

    Raises
    ------
    HTTPException
        If the scan has no such plane.
    """
    hanging = view.hanging
    if axis not in range(3) or index not in range(hanging.shape[axis]):
        raise HTTPException(404, f"{view.row.name} has no plane {index} across axis {axis}")
    place = hanging.place(axis, index)
    hu, state = _hu(view, place)
    parts: list[npt.NDArray[Any] | None] = [hu]
    labels = view.labels
    for name in ("box_zyx", "disagreement_zyx"):
        parts.append(None if labels is None else _organs(labels, name, place))
    head = bytes((state, parts[1] is not None, parts[2] is not None, 0))
    head += view.token.to_bytes(HEAD_BYTES - len(head), "little")
    return b"".join(
        (head, *(hanging.hung(axis, part).tobytes() for part in parts if part is not None))
    )


def _hu(view: View, place: tuple[int, int]) -> tuple[npt.NDArray[np.int16] | None, int]:
    ct = view.ct
    if ct is None:
        return None, NO_HU
    try:
        hu = ct.plane(*place)
    except CtUnreadable:
        return None, NO_HU
    if hu is None:
        return None, NO_HU if view.no_planes or ct.failed else HU_COMING
    return hu, HU


def _organs(labels: ShownLabels, name: str, place: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
    plane = labels.plane(name, *place)
    return plane if plane is not None and plane.any() else None


def _surfaces_of(view: View) -> bytes:
    if view.labels is None:
        raise NothingToShow(view.no_labels)
    if view.surfaces is None:
        view.surfaces = surfaces(view.labels)
    return view.surfaces
