// The viewer of a scan's page: three linked planes with the organs' contours.
//
// Planes are counted along S, P and L: towards the animal's head, back and left. They come from the
// board as they hang (limn.node.board.viewer.routes): head or belly up, the right side at the left.

const NO_HU = 0, HU = 1, HU_COMING = 2;
const KEPT_PLANES = 96, AHEAD = 3, WHEEL_PX = 40, PAGE = 10, MOST_ZOOM = 16;
// Pauses before the board is asked again grow to less than IN_USE_S of viewing.py, and end.
const AGAIN_MS = 250, BUSY_MS = 1000, LABELS_MS = 2000, MOST_PAUSE_MS = 8000, MOST_TRIES = 80;
// Of each plane: the axis of its rows, that of its columns, and letters left, right, top, bottom.
const HUNG = [[1, 2, "RLAP"], [0, 2, "RLHF"], [0, 1, "APHF"]];
// Where the wheel's downward turn leads: to the tail, the back, the left.
const DOWN = [-1, 1, 1];

const section = document.getElementById("viewer");
const element = (id) => document.getElementById(id);
const at = [0, 0, 0], centre = [0, 0, 0];
const hidden = new Set();
let frame, low = -900, high = 500, zoom = 1, pointer = null, solid = null;

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

// The board ------------------------------------------------------------------------------------

// Worth to be asked for again.
class Later extends Error {}

const ask = async (path) => {
  const answer = await fetch(`/${section.dataset.scan}/${path}`).catch(() => { throw new Later("the board does not answer"); });
  if (answer.ok) return answer;
  if (answer.status === 503) throw new Later(await answer.text());
  if (answer.status === 401) {
    // The session is over: the page that comes is the one to sign in.
    location.reload();
    throw new Error("signed out");
  }
  throw Object.assign(new Error(`the board answers ${answer.status}: load the page again`), { status: answer.status });
};

// Not while nobody sees the page: the scan would keep its place from others.
const later = (what, tries, firstMs) => setTimeout(() => {
  if (document.hidden) document.addEventListener("visibilitychange", what, { once: true });
  else what();
}, Math.min(MOST_PAUSE_MS, firstMs * 1.5 ** tries));

// Planes ---------------------------------------------------------------------------------------

const planes = [new Map(), new Map(), new Map()];
// Keys of planes that are asked for, or will be again; and how often each was asked for in vain.
const asked = new Set(), tried = new Map();

const parse = (buffer, axis) => {
  const [row, column] = HUNG[axis];
  const width = frame.shape[column], height = frame.shape[row], size = width * height;
  const head = new Uint8Array(buffer, 0, 8);
  let offset = 8;
  const take = (kind, bytes) => {
    const part = new kind(buffer, offset, size);
    offset += bytes * size;
    return part;
  };
  const plane = { width, height, state: head[0], hu: null, labels: null, disagreement: null };
  if (head[0] === HU) plane.hu = take(Int16Array, 2);
  if (head[1]) plane.labels = take(Uint8Array, 1);
  if (head[2]) plane.disagreement = take(Uint8Array, 1);
  plane.borders = plane.labels ? borders(plane) : new Map();
  return plane;
};

// The sides of voxels at which an organ ends: for each label x, y and 1 for a side that goes down.
const borders = ({ width, height, labels }) => {
  const found = new Map();
  const add = (label, x, y, down) => {
    if (!label) return;
    if (!found.has(label)) found.set(label, []);
    found.get(label).push(x, y, down);
  };
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const own = labels[i];
      const left = x ? labels[i - 1] : 0, above = y ? labels[i - width] : 0;
      if (own !== left) { add(own, x, y, 1); add(left, x, y, 1); }
      if (own !== above) { add(own, x, y, 0); add(above, x, y, 0); }
      if (own && x === width - 1) add(own, width, y, 1);
      if (own && y === height - 1) add(own, x, height, 0);
    }
  }
  return found;
};

const load = async (axis, index) => {
  const key = `${axis}/${index}`;
  if (asked.has(key)) return;
  asked.add(key);
  try {
    const buffer = await (await ask(`plane/${key}`)).arrayBuffer();
    if (new DataView(buffer).getUint32(4, true) !== frame.state) {
      asked.delete(key);
      await renew();
      draw();
      return;
    }
    const plane = parse(buffer, axis), kept = planes[axis];
    kept.delete(index);
    kept.set(index, plane);
    if (kept.size > KEPT_PLANES) kept.delete(kept.keys().next().value);
    hinder("");
    if (plane.state === HU_COMING) {
      again(axis, index, AGAIN_MS, "other planes than axial ones have not come");
    } else {
      asked.delete(key);
      tried.delete(key);
    }
    if (at[axis] === index) draw();
  } catch (error) {
    hinder(error.message);
    if (error instanceof Later) again(axis, index, BUSY_MS, error.message);
  }
};

// The scan was contoured again while its page was open, or its slices changed: nothing of before may
// be shown beside what is there now.
const renew = async () => {
  const found = await (await ask("view.json")).json();
  if (found.state === frame.state) return;
  if (found.nothing) {
    note(`nothing to scroll through: ${found.nothing}`);
    return;
  }
  adopt(found);
  note("the scan's files changed while this page was open: what is there now is shown; load the page again for its figures");
};

const adopt = (found) => {
  frame = found;
  notes.clear();
  frame.notes.forEach((text) => notes.add(text));
  listNotes();
  planes.forEach((kept) => kept.clear());
  for (const axis of [0, 1, 2]) {
    at[axis] = clamp(at[axis], 0, frame.shape[axis] - 1);
    centre[axis] = clamp(centre[axis], 0, frame.shape[axis] - 1);
    element(`at-${axis}`).max = frame.shape[axis] - 1;
  }
  listOrgans();
  solid = null;
  element("surfaces").hidden = true;
  element("solid").setAttribute("aria-expanded", "false");
  draw();
};

// Until then the plane counts as asked for; after the last time, for ever.
const again = (axis, index, firstMs, words) => {
  const key = `${axis}/${index}`, tries = tried.get(key) ?? 0;
  if (tries >= MOST_TRIES) {
    note(`${words}: load the page again`);
    return;
  }
  tried.set(key, tries + 1);
  later(() => {
    asked.delete(key);
    if (at[axis] === index) load(axis, index);
  }, tries, firstMs);
};

// The plane that is shown, and those that the wheel reaches next.
const want = (axis) => {
  for (let away = 0; away <= AHEAD; away++) {
    for (const index of new Set([at[axis] + away, at[axis] - away])) {
      if (index < 0 || index >= frame.shape[axis]) continue;
      const known = planes[axis].get(index);
      if (!known || (known.state === HU_COMING && !away)) load(axis, index);
    }
  }
};

// What the board says of the scan, and what hinders it now.
const notes = new Set();
let hindrance = "";

const listNotes = () => element("notes").replaceChildren(...[...notes, hindrance].filter(Boolean).map((text) => {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}));

const note = (text) => {
  notes.add(text);
  listNotes();
};

const hinder = (text) => {
  if (text === hindrance) return;
  hindrance = text;
  listNotes();
};

// Places ---------------------------------------------------------------------------------------

// The array's z, y, x of a voxel by its S, P, L.
const arrayIndex = (spl) => {
  const zyx = [0, 0, 0];
  spl.forEach((index, axis) => {
    zyx[frame.axes[axis]] = frame.flipped[axis] ? frame.shape[axis] - 1 - index : index;
  });
  return zyx;
};

// PS3.3 C.7.6.2.1.1: from the slice's own ImagePositionPatient.
const patientMm = (spl) => {
  const [z, y, x] = arrayIndex(spl);
  return frame.origins[z].map((origin, k) => origin + y * frame.step_y[k] + x * frame.step_x[k]);
};

const millimetres = (mm) => mm.toFixed(2).replace("-", "\u2212");

// Where a plane lies on its canvas.
const layout = (axis, canvas) => {
  const [row, column] = HUNG[axis];
  const heightMm = frame.shape[row] * frame.spacing_mm[row], widthMm = frame.shape[column] * frame.spacing_mm[column];
  const pxPerMm = zoom * Math.min(canvas.width / widthMm, canvas.height / heightMm);
  const place = (size, sizeMm, middle) => {
    const all = sizeMm * pxPerMm;
    return all <= size ? (size - all) / 2 : clamp(size / 2 - middle * all, size - all, 0);
  };
  const share = (of) => (centre[of] + 0.5) / frame.shape[of];
  return {
    pxPerMm,
    left: place(canvas.width, widthMm, share(column)),
    top: place(canvas.height, heightMm, row === 0 ? 1 - share(row) : share(row)),
    columnPx: frame.spacing_mm[column] * pxPerMm,
    rowPx: frame.spacing_mm[row] * pxPerMm,
  };
};

// Row and column of a plane from S, P, L, and back.
const rowOf = (axis, spl) => { const row = HUNG[axis][0]; return row === 0 ? frame.shape[0] - 1 - spl[0] : spl[row]; };
const voxelAt = (axis, event) => {
  const canvas = element(`plane-${axis}`), box = canvas.getBoundingClientRect(), where = layout(axis, canvas);
  const [row, column] = HUNG[axis];
  const x = Math.floor(((event.clientX - box.left) * canvas.width / box.width - where.left) / where.columnPx);
  const y = Math.floor(((event.clientY - box.top) * canvas.height / box.height - where.top) / where.rowPx);
  const spl = [...at];
  spl[column] = clamp(x, 0, frame.shape[column] - 1);
  const down = clamp(y, 0, frame.shape[row] - 1);
  spl[row] = row === 0 ? frame.shape[0] - 1 - down : down;
  return { spl, inside: x === spl[column] && y === down };
};

// Drawing --------------------------------------------------------------------------------------

const pixels = HUNG.map(() => ({ canvas: document.createElement("canvas"), image: null, shown: null }));

// A plane in its own voxels; nothing is done if it is there already.
const paint = (axis, plane) => {
  const own = pixels[axis], tinted = element("disagreement").checked;
  const { hu, width, height } = plane, scale = 255 / Math.max(1, high - low);
  const { shown } = own;
  if (shown && shown.plane === plane && shown.low === low && shown.high === high && shown.tinted === tinted) return;
  own.shown = { plane, low, high, tinted };
  const context = own.canvas.getContext("2d");
  if (!own.image || own.image.width !== width || own.image.height !== height) {
    own.canvas.width = width;
    own.canvas.height = height;
    own.image = context.createImageData(width, height);
  }
  const rgba = new Uint32Array(own.image.data.buffer);
  if (hu) {
    for (let i = 0; i < hu.length; i++) {
      const grey = Math.min(255, Math.max(0, (hu[i] - low) * scale)) | 0;
      rgba[i] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
  } else {
    rgba.fill(0xff202020);
  }
  if (plane.disagreement && tinted) blend(own.image.data, plane.disagreement);
  context.putImageData(own.image, 0, 0);
};

// Magenta, the stronger the more the folds contradict each other.
const blend = (data, disagreement) => {
  for (let i = 0; i < disagreement.length; i++) {
    const share = Math.min(1, disagreement[i] / 160);
    if (!share) continue;
    data[4 * i] += (255 - data[4 * i]) * share;
    data[4 * i + 1] *= 1 - share;
    data[4 * i + 2] += (255 - data[4 * i + 2]) * share;
  }
};

const write = (context, text, x, y, align, baseline) => {
  context.textAlign = align;
  context.textBaseline = baseline;
  context.lineWidth = context.unit * 3;
  context.strokeStyle = "#000";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
};

const drawContours = (context, plane, where) => {
  context.lineWidth = 1.5 * context.unit;
  for (const { label, colour } of frame.organs) {
    const sides = plane.borders.get(label);
    if (!sides || hidden.has(label)) continue;
    context.strokeStyle = `rgb(${colour.join(" ")})`;
    context.beginPath();
    for (let i = 0; i < sides.length; i += 3) {
      const x = where.left + sides[i] * where.columnPx, y = where.top + sides[i + 1] * where.rowPx;
      context.moveTo(x, y);
      if (sides[i + 2]) context.lineTo(x, y + where.rowPx);
      else context.lineTo(x + where.columnPx, y);
    }
    context.stroke();
  }
};

const drawCross = (context, axis, where, canvas) => {
  const x = where.left + (at[HUNG[axis][1]] + 0.5) * where.columnPx, y = where.top + (rowOf(axis, at) + 0.5) * where.rowPx;
  const gap = 8 * context.unit;
  context.lineWidth = context.unit;
  context.strokeStyle = "rgb(255 255 255 / 0.55)";
  context.beginPath();
  for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]]) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
};

const drawWords = (context, axis, where, canvas) => {
  const { width, height } = canvas, unit = context.unit, [left, right, top, bottom] = HUNG[axis][2];
  context.font = `${14 * unit}px sans-serif`;
  write(context, left, 5 * unit, height / 2, "left", "middle");
  write(context, right, width - 5 * unit, height / 2, "right", "middle");
  write(context, top, width / 2, 5 * unit, "center", "top");
  write(context, bottom, width / 2, height - 5 * unit, "center", "bottom");
  const mm = [20, 10, 5, 2, 1, 0.5, 0.2].find((each) => each * where.pxPerMm < width * 0.4) || 0.1;
  context.fillStyle = "#000";
  context.fillRect(9 * unit, height - 25 * unit, mm * where.pxPerMm + 2 * unit, 5 * unit);
  context.fillStyle = "#fff";
  context.fillRect(10 * unit, height - 24 * unit, mm * where.pxPerMm, 3 * unit);
  write(context, `${mm} mm`, 10 * unit, height - 28 * unit, "left", "bottom");
  const word = planes[axis].get(at[axis])?.state === HU_COMING ? "the CT is being read"
    : frame.missing.includes(arrayIndex(at)[0]) && frame.axes[axis] === 0 ? "no slice here: interpolated" : "";
  if (word) write(context, word, width / 2, height - 28 * unit, "center", "bottom");
};

const drawPlane = (axis) => {
  const canvas = element(`plane-${axis}`), plane = planes[axis].get(at[axis]);
  const unit = window.devicePixelRatio || 1, side = Math.max(1, Math.round(canvas.clientWidth * unit));
  if (canvas.width !== side || canvas.height !== side) canvas.width = canvas.height = side;
  element(`at-${axis}`).value = at[axis];
  element(`place-${axis}`).textContent = `${"zyx"[axis]} ${millimetres(patientMm(at)["xyz".indexOf("zyx"[axis])])} mm, ${at[axis] + 1} of ${frame.shape[axis]}`;
  want(axis);
  // The plane before stays until the new one is there.
  if (!plane) return;
  const context = canvas.getContext("2d"), where = layout(axis, canvas);
  context.unit = unit;
  paint(axis, plane);
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = Math.max(where.columnPx, where.rowPx) < 12 * unit;
  context.drawImage(pixels[axis].canvas, where.left, where.top, plane.width * where.columnPx, plane.height * where.rowPx);
  drawContours(context, plane, where);
  if (element("cross").checked) drawCross(context, axis, where, canvas);
  drawWords(context, axis, where, canvas);
  canvas.dataset.index = at[axis];
  canvas.dataset.state = ["labels alone", "CT", "coming"][plane.state];
};

let waits = false;
const draw = () => {
  if (waits) return;
  waits = true;
  requestAnimationFrame(() => {
    waits = false;
    for (const axis of [0, 1, 2]) drawPlane(axis);
    tell();
  });
};

// Words under the planes: the voxel at the pointer, or that of the crosshair.
const tell = () => {
  const { axis, spl } = pointer ?? { axis: 0, spl: at };
  const plane = planes[axis].get(spl[axis]);
  if (!plane) return;
  const i = rowOf(axis, spl) * plane.width + spl[HUNG[axis][1]];
  const [x, y, z] = patientMm(spl).map(millimetres);
  const label = plane.labels ? plane.labels[i] : 0;
  const parts = [
    `x ${x} y ${y} z ${z} mm`,
    plane.hu ? `${String(plane.hu[i]).replace("-", "\u2212")} HU` : plane.state === HU_COMING ? "HU follow" : "no HU",
    frame.organs.find((each) => each.label === label)?.name ?? "no organ",
  ];
  if (element("disagreement").checked) parts.push(`folds disagree by ${Math.round((plane.disagreement?.[i] ?? 0) / 2.55)} %`);
  element("under").textContent = `${pointer ? "" : "crosshair: "}${parts.join("  \u00b7  ")}`;
};

// What a person does ---------------------------------------------------------------------------

const move = (axis, index) => {
  at[axis] = clamp(index, 0, frame.shape[axis] - 1);
  if (pointer?.axis === axis) pointer.spl[axis] = at[axis];
  draw();
};

const setWindow = (from, to) => {
  low = Math.round(from);
  high = Math.max(low + 1, Math.round(to));
  element("low").value = low;
  element("high").value = high;
  for (const button of document.querySelectorAll("#viewer [data-low]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.low) === low && Number(button.dataset.high) === high));
  }
  draw();
};

const wholeRange = () => {
  let least = Infinity, most = -Infinity;
  for (const axis of [0, 1, 2]) {
    for (const value of planes[axis].get(at[axis])?.hu ?? []) {
      if (value < least) least = value;
      if (value > most) most = value;
    }
  }
  if (least < most) setWindow(least, most);
};

const setZoom = (to) => {
  zoom = clamp(to, 1, MOST_ZOOM);
  at.forEach((index, axis) => { centre[axis] = index; });
  draw();
};

const keys = (axis, event) => {
  const steps = {
    ArrowDown: DOWN[axis], ArrowUp: -DOWN[axis], ArrowRight: DOWN[axis], ArrowLeft: -DOWN[axis],
    PageDown: PAGE * DOWN[axis], PageUp: -PAGE * DOWN[axis],
    Home: -DOWN[axis] * Infinity, End: DOWN[axis] * Infinity,
  };
  if (event.key in steps) move(axis, at[axis] + steps[event.key]);
  else if (event.key === "+" || event.key === "=") setZoom(zoom * 1.5);
  else if (event.key === "-") setZoom(zoom / 1.5);
  else return;
  event.preventDefault();
};

const wheel = (axis) => {
  let turned = 0;
  return (event) => {
    event.preventDefault();
    if (event.ctrlKey) { setZoom(event.deltaY < 0 ? zoom * 1.25 : zoom / 1.25); return; }
    turned += event.deltaMode ? Math.sign(event.deltaY) * WHEEL_PX : event.deltaY;
    const steps = Math.trunc(turned / WHEEL_PX);
    turned -= steps * WHEEL_PX;
    if (steps) move(axis, at[axis] + steps * DOWN[axis]);
  };
};

const follow = (axis, canvas) => {
  let windowing = null;
  const take = (event) => {
    const { spl } = voxelAt(axis, event);
    at.splice(0, 3, ...spl);
    draw();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (event.button === 2 || event.shiftKey) windowing = [event.clientX, event.clientY, low, high];
    else take(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (windowing) {
      const [x, y, from, to] = windowing;
      const middle = (from + to) / 2 + (event.clientY - y) * 4, half = Math.max(1, (to - from) / 2 + (event.clientX - x) * 4);
      setWindow(middle - half, middle + half);
      return;
    }
    const { spl, inside } = voxelAt(axis, event);
    pointer = inside ? { axis, spl } : null;
    if (event.buttons & 1) take(event);
    else tell();
  });
  canvas.addEventListener("pointerup", () => { windowing = null; });
  canvas.addEventListener("pointercancel", () => { windowing = null; });
  canvas.addEventListener("pointerleave", () => { pointer = null; tell(); });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", wheel(axis), { passive: false });
  canvas.addEventListener("keydown", (event) => keys(axis, event));
};

const listOrgans = () => {
  document.querySelectorAll("#organs [data-label]").forEach((box) => box.parentElement.remove());
  const before = element("cross").parentElement;
  for (const { label, name, colour } of frame.organs) {
    const line = document.createElement("label"), box = document.createElement("input"), swatch = document.createElement("span");
    box.type = "checkbox";
    box.checked = true;
    box.dataset.label = label;
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${colour.join(" ")})`;
    line.append(box, swatch, name);
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(label);
      else hidden.add(label);
      draw();
      solid?.redraw();
    });
    before.before(line);
  }
};

const openSolid = async () => {
  const box = element("surfaces"), button = element("solid");
  box.hidden = !box.hidden;
  button.setAttribute("aria-expanded", String(!box.hidden));
  if (box.hidden || solid) { solid?.redraw(); return; }
  try {
    const { Solid } = await import("/static/surfaces.js");
    solid = new Solid(box, await (await ask("surfaces")).arrayBuffer(), hidden);
  } catch (error) {
    box.hidden = true;
    button.setAttribute("aria-expanded", "false");
    note(`no 3D view: ${error.status === 404 ? "this scan has no surfaces" : error.message}`);
  }
};

// A page that was opened before the contours were there gets them once they are.
const awaitOrgans = (tries) => {
  if (frame.organs.length || tries >= MOST_TRIES) return;
  later(async () => {
    const found = await ask("view.json").then((answer) => answer.json()).catch(() => frame);
    if (found.organs?.length && found.state !== frame.state) adopt(found);
    awaitOrgans(tries + 1);
  }, tries, LABELS_MS);
};

const start = async (tries) => {
  try {
    frame = await (await ask("view.json")).json();
  } catch (error) {
    element("under").textContent = error.message;
    if (!(error instanceof Later)) return;
    if (tries < MOST_TRIES) later(() => start(tries + 1), tries, BUSY_MS);
    else element("under").textContent = `${error.message}: load the page again`;
    return;
  }
  if (frame.nothing) {
    element("under").textContent = `nothing to scroll through: ${frame.nothing}`;
    return;
  }
  at.splice(0, 3, ...frame.start);
  centre.splice(0, 3, ...frame.start);
  frame.notes.forEach(note);
  element("tools").hidden = false;
  listOrgans();
  for (const axis of [0, 1, 2]) {
    const slider = element(`at-${axis}`);
    slider.max = frame.shape[axis] - 1;
    slider.addEventListener("input", () => move(axis, Number(slider.value)));
    follow(axis, element(`plane-${axis}`));
  }
  for (const button of document.querySelectorAll("#viewer [data-low]")) {
    button.addEventListener("click", () => setWindow(Number(button.dataset.low), Number(button.dataset.high)));
  }
  element("whole").addEventListener("click", wholeRange);
  for (const id of ["low", "high"]) {
    element(id).addEventListener("change", () => setWindow(Number(element("low").value), Number(element("high").value)));
  }
  for (const id of ["cross", "disagreement"]) element(id).addEventListener("change", draw);
  element("closer").addEventListener("click", () => setZoom(zoom * 1.5));
  element("farther").addEventListener("click", () => setZoom(zoom / 1.5));
  element("solid").addEventListener("click", openSolid);
  new ResizeObserver(() => { draw(); solid?.redraw(); }).observe(section);
  setWindow(low, high);
  awaitOrgans(0);
};

// Nothing is read of a scan before somebody sees its viewer.
const seen = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  seen.disconnect();
  start(0);
}, { rootMargin: "200px" });
element("under").textContent = "the planes come once this is seen";
// The picture above it has its height by then.
if (document.readyState === "complete") seen.observe(section);
else window.addEventListener("load", () => seen.observe(section));
