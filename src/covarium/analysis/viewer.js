// Structures on a canvas: drag or arrow keys turn, wheel (after a click) or + and − zoom, pointing at an atom names it.
"use strict";
for (const root of document.querySelectorAll(".viewer")) {
  const frames = JSON.parse(root.querySelector("script").textContent);
  const canvas = root.querySelector("canvas"), pen = canvas.getContext("2d"), readout = root.querySelector("output");
  const choice = root.querySelector("select"), byError = root.querySelector("[name=error]"), arrows = root.querySelector("[name=arrows]");
  const byAttention = root.querySelector("[name=received]"), layer = root.querySelector("[name=layer]");
  let frame, pointed = null, turn, zoom = 1, places = [], width = 0, height = 0;

  const product = (a, b) => a.map((row) => b[0].map((_, k) => row.reduce((sum, x, i) => sum + x * b[i][k], 0)));
  const about = (axis, t) => {
    const c = Math.cos(t), s = Math.sin(t);
    return axis === "x" ? [[1, 0, 0], [0, c, -s], [0, s, c]] : [[c, 0, s], [0, 1, 0], [-s, 0, c]];
  };
  const rotate = (dx, dy) => { turn = product(product(about("x", dy), about("y", dx)), turn); draw(); };
  const zoomBy = (factor) => { zoom = Math.min(12, Math.max(0.3, zoom * factor)); draw(); };

  function show(index) {
    frame = frames[index];
    const points = frame.cell ? frame.positions.concat(corners(frame.cell)) : frame.positions;
    const low = [0, 1, 2].map((k) => Math.min(...points.map((p) => p[k])));
    const high = [0, 1, 2].map((k) => Math.max(...points.map((p) => p[k])));
    frame.centre = low.map((x, k) => (x + high[k]) / 2);
    frame.radius = Math.max(1.5, ...points.map((p) => Math.hypot(...p.map((x, k) => x - frame.centre[k])))) + 1;
    frame.worst = Math.max(...(frame.errors || []).map((e) => Math.hypot(...e)), 1e-30);
    turn = product(about("x", 0.4), about("y", -0.5));
    zoom = 1;
    for (const box of [byError, arrows]) box.parentElement.hidden = !frame.errors;
    byAttention.parentElement.hidden = !frame.received;
    layer.parentElement.hidden = !frame.edges;
    const names = [...Object.keys(frame.edges ? frame.edges.weights : {}), "none"], kept = layer.value;
    layer.replaceChildren(...names.map((text) => new Option(text)));
    if (names.includes(kept)) layer.value = kept;
    [frame.least, frame.most] = [Math.min(...(frame.received || [])), Math.max(...(frame.received || []))];
    pointed = null;
    draw();
  }

  function corners(c) {
    return [0, 1, 2, 3, 4, 5, 6, 7].map((n) => [0, 1, 2].map((k) => (n & 1) * c[0][k] + ((n >> 1) & 1) * c[1][k] + (n >> 2) * c[2][k]));
  }

  // x to the right, y up, z towards the eye; weak perspective
  function project(p) {
    const d = p.map((x, k) => x - frame.centre[k]), r = turn.map((row) => row[0] * d[0] + row[1] * d[1] + row[2] * d[2]);
    const scale = (zoom * Math.min(width, height) / 2 / frame.radius) * (4 / (4 - r[2] / frame.radius));
    return { x: width / 2 + r[0] * scale, y: height / 2 - r[1] * scale, z: r[2], scale };
  }

  const mix = (a, b, t) => `rgb(${a.map((x, k) => Math.round(x + (b[k] - x) * t)).join()})`;
  function colour(i) {
    let t;
    if (byError.checked && frame.errors) t = Math.hypot(...frame.errors[i]) / frame.worst;
    else if (byAttention.checked && frame.received) t = (frame.received[i] - frame.least) / Math.max(frame.most - frame.least, 1e-30);
    else return frame.colours[i];
    return [60, 110, 190].map((x, k) => x + ([250, 210, 40][k] - x) * t);
  }

  function line(a, b, style, thickness) {
    pen.strokeStyle = style;
    pen.lineWidth = thickness;
    pen.beginPath();
    pen.moveTo(a.x, a.y);
    pen.lineTo(b.x, b.y);
    pen.stroke();
  }

  function ball(i) {
    const p = places[i], r = frame.radii[i] * 0.45 * p.scale, c = colour(i);
    const shade = pen.createRadialGradient(p.x - r / 3, p.y - r / 3, r / 8, p.x, p.y, r);
    shade.addColorStop(0, mix(c, [255, 255, 255], 0.6));
    shade.addColorStop(0.5, mix(c, c, 0));
    shade.addColorStop(1, mix(c, [0, 0, 0], 0.5));
    pen.fillStyle = shade;
    pen.beginPath();
    pen.arc(p.x, p.y, r, 0, 2 * Math.PI);
    pen.fill();
    if (frame.fixed[i]) { pen.strokeStyle = ink(); pen.lineWidth = 1.5; pen.stroke(); }
  }

  // the half next to i, as thick as i attends to j; all of it for the atom that is pointed at, and then no other's
  function attention(weights, parts) {
    const most = Math.max(...weights, 1e-30);
    frame.edges.index.forEach(([j, i], e) => {
      const t = weights[e] / most, offset = frame.edges.offsets ? frame.edges.offsets[e] : [0, 0, 0];
      if (t < 0.02 || (pointed !== null && pointed !== i)) return;
      const end = frame.positions[i].map((x, k) => x + (frame.positions[j][k] + offset[k] - x) * (pointed === null ? 0.5 : 1));
      const a = places[i], b = project(end);
      parts.push({ z: (a.z + b.z) / 2 - 0.15, paint: () => {
        pen.globalAlpha = 0.12 + 0.88 * t;
        line(a, b, "#d55e00", Math.max(0.6, 0.22 * t * a.scale));
        pen.globalAlpha = 1;
      } });
    });
  }

  function arrow(i) {
    const length = 1.5 / frame.worst; // the largest error is drawn 1.5 Å long
    const a = places[i], b = project(frame.positions[i].map((x, k) => x + frame.errors[i][k] * length));
    const away = Math.hypot(b.x - a.x, b.y - a.y);
    if (away < 0.15 * a.scale) return;
    const u = { x: (b.x - a.x) / away, y: (b.y - a.y) / away };
    const thickness = Math.min(2.5, 0.09 * a.scale);
    line(a, b, "#d55e00", thickness);
    const head = Math.min(8, 0.3 * a.scale, away / 2);
    for (const side of [-0.6, 0.6]) line(b, { x: b.x - head * (u.x + side * u.y), y: b.y - head * (u.y - side * u.x) }, "#d55e00", thickness);
  }

  const ink = () => getComputedStyle(canvas).color;
  function draw() {
    pen.clearRect(0, 0, width, height);
    pen.lineCap = "round";
    if (frame.cell) {
      const c = corners(frame.cell).map(project);
      pen.globalAlpha = 0.45;
      for (let a = 0; a < 8; a++) for (const bit of [1, 2, 4]) if (!(a & bit)) line(c[a], c[a | bit], ink(), 1);
      pen.globalAlpha = 1;
    }
    places = frame.positions.map(project);
    const parts = places.map((p, i) => ({ z: p.z, paint: () => ball(i) }));
    const weights = frame.edges && frame.edges.weights[layer.value]; // bonds are thin beside them
    for (const [i, j] of frame.bonds) {
      const a = places[i], b = places[j], thickness = (weights ? 0.05 : 0.16) * a.scale;
      parts.push({ z: (a.z + b.z) / 2 - 0.2, paint: () => { line(a, b, "#57606a", thickness); line(a, b, "#a5adb6", thickness * 0.6); } });
    }
    if (weights) attention(weights, parts);
    parts.sort((a, b) => a.z - b.z).forEach((part) => part.paint());
    if (frame.errors && arrows.checked) frame.positions.forEach((_, i) => arrow(i));
  }

  function name(x, y) {
    const near = places.map((p, i) => [Math.hypot(p.x - x, p.y - y) - frame.radii[i] * 0.45 * p.scale, -p.z, i]).filter((n) => n[0] < 2);
    const i = near.length ? near.sort((a, b) => a[1] - b[1])[0][2] : null;
    if (frame.edges && i !== pointed) { pointed = i; draw(); }
    if (i === null) { readout.textContent = ""; return; }
    const error = frame.errors ? `, force error ${Math.hypot(...frame.errors[i]).toPrecision(3)} eV/Å` : "";
    const attended = frame.received ? `, attention received ${frame.received[i].toPrecision(3)} even shares` : "";
    readout.textContent = `atom ${i}: ${frame.symbols[i]}${error}${attended}${frame.fixed[i] ? ", frozen" : ""}`;
  }

  const fingers = new Map();
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, e); });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("pointermove", (e) => {
    const last = fingers.get(e.pointerId);
    if (!last) { name(e.offsetX, e.offsetY); return; }
    if (fingers.size === 1) rotate((e.clientX - last.clientX) / 120, (e.clientY - last.clientY) / 120);
    else {
      const other = [...fingers.values()].find((f) => f.pointerId !== e.pointerId);
      const gap = (f) => Math.hypot(f.clientX - other.clientX, f.clientY - other.clientY) + 1;
      zoomBy(gap(e) / gap(last));
    }
    fingers.set(e.pointerId, e);
  });
  canvas.addEventListener("wheel", (e) => {
    if (document.activeElement === canvas) { e.preventDefault(); zoomBy(Math.exp(-e.deltaY / 400)); }
  }, { passive: false });
  const keys = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
  canvas.addEventListener("keydown", (e) => { if (keys[e.key]) { e.preventDefault(); rotate(...keys[e.key]); } });
  root.querySelector("[name=closer]").addEventListener("click", () => zoomBy(1.25));
  root.querySelector("[name=farther]").addEventListener("click", () => zoomBy(0.8));
  for (const box of [byError, arrows, byAttention, layer]) box.addEventListener("change", draw);
  choice.addEventListener("change", () => show(Number(choice.value)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  function fit() {
    const ratio = window.devicePixelRatio || 1;
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  }
  fit(); // at once: an observer is heard with the next painted frame, which a busy or hidden page may not make for long
  show(0);
  new ResizeObserver(() => { fit(); draw(); }).observe(canvas);
}
