// The organs in 3D: triangles from the board, drawn with WebGL, without any library.

const VERTEX = `#version 300 es
in vec3 place; in vec3 normal; uniform mat3 turn; uniform vec3 middle; uniform vec2 scale; uniform float depth; out vec3 facing;
void main() { vec3 at = turn * (place - middle); facing = turn * normal; gl_Position = vec4(at.x * scale.x, at.y * scale.y, at.z * depth, 1.0); }`;
const FRAGMENT = `#version 300 es
precision mediump float; in vec3 facing; uniform vec3 colour; out vec4 shown;
void main() { float light = abs(dot(normalize(facing), normalize(vec3(0.3, 0.5, -1.0)))); shown = vec4(colour * (0.25 + 0.75 * light), 1.0); }`;
// Towards left, back and head of the patient (x, y, z grow there), and the other way.
const ENDS = [["L", [1, 0, 0]], ["R", [-1, 0, 0]], ["P", [0, 1, 0]], ["A", [0, -1, 0]], ["H", [0, 0, 1]], ["F", [0, 0, -1]]];
const STEP = Math.PI / 24, NEAREST = 8;

const shader = (gl, kind, text) => {
  const made = gl.createShader(kind);
  gl.shaderSource(made, text);
  gl.compileShader(made);
  return made;
};

// Of each point the mean of the faces around it, larger faces counting more.
const normalsOf = (points, faces) => {
  const normals = new Float32Array(points.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
    const u = [0, 1, 2].map((k) => points[b + k] - points[a + k]), v = [0, 1, 2].map((k) => points[c + k] - points[a + k]);
    const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) normals[corner + k] += normal[k];
  }
  return normals;
};

const parse = (buffer) => {
  const length = new DataView(buffer).getUint32(0, true);
  const organs = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let offset = 4 + length;
  for (const organ of organs) {
    const points = new Float32Array(buffer, offset, 3 * organ.points);
    const faces = new Uint32Array(buffer, offset + points.byteLength, 3 * organ.faces);
    offset += points.byteLength + faces.byteLength;
    Object.assign(organ, { points, faces });
  }
  return organs;
};

export class Solid {
  // hidden: labels that are not shown; it may change before `redraw`.
  constructor(box, buffer, hidden) {
    [this.canvas, this.letters] = box.querySelectorAll("canvas");
    this.hidden = hidden;
    this.gl = this.canvas.getContext("webgl2");
    if (!this.gl) throw new Error("this browser has no WebGL 2");
    this.organs = parse(buffer);
    if (!this.organs.length) throw new Error("no organ has a surface");
    this.program = this.link();
    for (const organ of this.organs) this.upload(organ);
    this.measure();
    this.turnBack();
    this.listen();
    this.redraw();
  }

  link() {
    const { gl } = this, program = gl.createProgram();
    gl.attachShader(program, shader(gl, gl.VERTEX_SHADER, VERTEX));
    gl.attachShader(program, shader(gl, gl.FRAGMENT_SHADER, FRAGMENT));
    gl.bindAttribLocation(program, 0, "place");
    gl.bindAttribLocation(program, 1, "normal");
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    return program;
  }

  upload(organ) {
    const { gl } = this;
    organ.array = gl.createVertexArray();
    gl.bindVertexArray(organ.array);
    [organ.points, normalsOf(organ.points, organ.faces)].forEach((values, place) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
    });
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, organ.faces, gl.STATIC_DRAW);
  }

  measure() {
    const least = [Infinity, Infinity, Infinity], most = [-Infinity, -Infinity, -Infinity];
    for (const { points } of this.organs) {
      for (let i = 0; i < points.length; i++) {
        least[i % 3] = Math.min(least[i % 3], points[i]);
        most[i % 3] = Math.max(most[i % 3], points[i]);
      }
    }
    this.middle = least.map((value, k) => (value + most[k]) / 2);
    this.radius = Math.hypot(...least.map((value, k) => most[k] - value)) / 2;
  }

  // From the front: head up, the animal's right side at the left.
  turnBack() { this.yaw = 0; this.pitch = 0; this.zoom = 1; }

  // Rows: what points right, up and away from the viewer.
  get rows() {
    const [c, s, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    return [[c, s, 0], [-s * sp, c * sp, cp], [-s * cp, c * cp, -sp]];
  }

  redraw() {
    const { gl, canvas } = this, rows = this.rows;
    const unit = window.devicePixelRatio || 1, side = Math.max(1, Math.round(canvas.clientWidth * unit));
    for (const each of [canvas, this.letters]) if (each.width !== side || each.height !== side) each.width = each.height = side;
    gl.viewport(0, 0, side, side);
    gl.clearColor(0.06, 0.09, 0.09, 1);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(this.program);
    const uniform = (name) => gl.getUniformLocation(this.program, name);
    const scale = 0.85 * this.zoom / this.radius;
    gl.uniformMatrix3fv(uniform("turn"), true, rows.flat());
    gl.uniform3fv(uniform("middle"), this.middle);
    gl.uniform2f(uniform("scale"), scale, scale);
    gl.uniform1f(uniform("depth"), 0.9 / this.radius);
    for (const organ of this.organs) {
      if (this.hidden.has(organ.label)) continue;
      gl.uniform3fv(uniform("colour"), organ.colour.map((value) => value / 255));
      gl.bindVertexArray(organ.array);
      gl.drawElements(gl.TRIANGLES, organ.faces.length, gl.UNSIGNED_INT, 0);
    }
    this.drawLetters(rows, side, unit);
    canvas.dataset.yaw = this.yaw.toFixed(3);
  }

  drawLetters(rows, side, unit) {
    const context = this.letters.getContext("2d");
    context.clearRect(0, 0, side, side);
    context.font = `${16 * unit}px sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [letter, way] of ENDS) {
      const [x, y, away] = rows.map((row) => row[0] * way[0] + row[1] * way[1] + row[2] * way[2]);
      // What points at the viewer, or away, would stand in the middle of the organs.
      if (Math.abs(away) > 0.9) continue;
      context.fillStyle = away > 0.05 ? "#9fb0ae" : "#fff";
      context.fillText(letter, side * (0.5 + 0.46 * x), side * (0.5 - 0.46 * y));
    }
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) this.turn(-event.movementX / 120, event.movementY / 120);
    });
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); this.resize(event.deltaY < 0 ? 1.1 : 1 / 1.1); }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const acts = {
        ArrowLeft: () => this.turn(STEP, 0), ArrowRight: () => this.turn(-STEP, 0),
        ArrowUp: () => this.turn(0, -STEP), ArrowDown: () => this.turn(0, STEP),
        "+": () => this.resize(1.2), "=": () => this.resize(1.2), "-": () => this.resize(1 / 1.2),
        Home: () => { this.turnBack(); this.redraw(); },
      };
      if (!(event.key in acts)) return;
      event.preventDefault();
      acts[event.key]();
    });
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, this.pitch + pitch));
    requestAnimationFrame(() => this.redraw());
  }

  resize(factor) {
    this.zoom = Math.min(NEAREST, Math.max(0.5, this.zoom * factor));
    requestAnimationFrame(() => this.redraw());
  }
}
