// The slice viewer: one map on the template in three planes that share a crosshair.

const SLICE_SCALE = 4;

async function startViewer(root, template) {
  const maps = await Promise.all(readJson(`${root.id}-maps`).map(unpacked));
  const part = (name) => root.querySelector(`.${name}`);
  const state = { map: maps[0], mm: [0, 0, 0], threshold: 0 };
  const slices = [...root.querySelectorAll(".slice")].map((box, place) => makeSlice(box, PLANES[place], template));

  const draw = () => {
    const { map, mm, threshold } = state;
    const layer = { volume: map, palette: paletteOf(map, threshold) };
    slices.forEach((slice) => slice.draw(layer, mm, part("with-template").checked));
    const code = codeAt(map, mm);
    part("readout").textContent = `${place(mm)}: ${code ? showCode(map, code) : "no value"}`;
    part("threshold-value").textContent = show(threshold, map.unit);
    paintBar(part("bar"), map, threshold);
  };
  const moveTo = (mm) => {
    state.mm = mm.map((coordinate, axis) => inside(template, axis, coordinate));
    draw();
  };
  const choose = (map) => {
    Object.assign(state, { map, threshold: map.threshold * largest(map) });
    setUpMap(part, map, state.threshold);
    moveTo(map.peak.mm);
  };

  maps.forEach((map, index) => part("map-choice").append(new Option(map.name, index)));
  part("map-choice").addEventListener("change", (event) => choose(maps[event.target.value]));
  part("threshold").addEventListener("input", (event) => {
    state.threshold = (event.target.value / 100) * largest(state.map);
    draw();
  });
  part("with-template").addEventListener("change", draw);
  part("to-peak").addEventListener("click", () => moveTo(state.map.peak.mm));
  slices.forEach((slice) => slice.listen(() => state, moveTo));
  choose(maps[0]);
  document.getElementById(`${root.id}-missing`).remove();
  root.hidden = false;

  // A window of stage 1 becomes the last choice of the list, in place of the one before.
  const own = maps.length;
  return (map) => {
    const choice = part("map-choice");
    maps[own] = map;
    choice.options[own] = new Option(map.name, own, true, true);
    choose(map);
    root.scrollIntoView();
    choice.focus({ preventScroll: true });
  };
}

function setUpMap(part, map, threshold) {
  part("about").textContent = map.about;
  part("bar-low").textContent = show(map.low, map.unit);
  part("bar-high").textContent = show(map.high, map.unit);
  part("threshold").value = (100 * threshold) / largest(map);
}

// The centre of the template's voxel nearest to a coordinate.
function inside(template, axis, mm) {
  const { origin, step, shape } = template;
  const index = Math.round((mm - origin[axis]) / step[axis]);
  return origin[axis] + Math.min(Math.max(index, 0), shape[axis] - 1) * step[axis];
}

function makeSlice(box, plane, template) {
  const canvas = box.querySelector("canvas");
  const slider = box.querySelector("input");
  const { normal, across, up } = plane;
  const [origin, step, shape] = [template.origin, template.step, template.shape];
  [canvas.width, canvas.height] = [shape[across] * SLICE_SCALE, shape[up] * SLICE_SCALE];
  Object.assign(slider, { min: origin[normal], max: origin[normal] + (shape[normal] - 1) * step[normal], step: step[normal] });

  return {
    draw(layer, mm, withTemplate) {
      const context = paint(canvas, sliceImage(template, layer, plane, mm, withTemplate));
      const x = ((mm[across] - origin[across]) / step[across] + 0.5) * SLICE_SCALE;
      const y = (shape[up] - 0.5 - (mm[up] - origin[up]) / step[up]) * SLICE_SCALE;
      drawCrosshair(context, x, y, plane.ends);
      const text = `${AXES[normal]} = ${mm[normal]} mm`.replace("-", "\u2212");
      box.querySelector(".at").textContent = text;
      slider.value = mm[normal];
      slider.setAttribute("aria-valuetext", text);
      canvas.setAttribute("aria-label", `${plane.name} slice at ${text}. Arrow keys move the crosshair, Page Up and Page Down change the slice.`);
    },
    listen(stateOf, moveTo) {
      slider.addEventListener("input", () => moveTo(stateOf().mm.with(normal, Number(slider.value))));
      const follow = (event) => moveTo(mmUnder(event, canvas, plane, template, stateOf().mm));
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        follow(event);
      });
      canvas.addEventListener("pointermove", (event) => event.buttons && follow(event));
      canvas.addEventListener("keydown", (event) => {
        const mm = mmAfterKey(event, plane, step, stateOf());
        if (!mm) return;
        event.preventDefault();
        moveTo(mm);
      });
    },
  };
}

function mmUnder(event, canvas, { across, up }, template, mm) {
  const box = canvas.getBoundingClientRect();
  const share = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
  const at = (axis, part) => template.origin[axis] + (part * template.shape[axis] - 0.5) * template.step[axis];
  return mm.with(across, at(across, share[0])).with(up, at(up, share[1]));
}

function mmAfterKey(event, { normal, across, up }, step, { mm, map }) {
  const moves = {
    ArrowLeft: [across, -1],
    ArrowRight: [across, 1],
    ArrowDown: [up, -1],
    ArrowUp: [up, 1],
    PageDown: [normal, -1],
    PageUp: [normal, 1],
  };
  if (event.key === "Home") return map.peak.mm;
  if (!(event.key in moves)) return null;
  const [axis, sign] = moves[event.key];
  return mm.with(axis, mm[axis] + sign * step[axis] * (event.shiftKey ? 5 : 1));
}

function drawCrosshair(context, x, y, ends) {
  const { width, height } = context.canvas;
  context.fillStyle = "rgba(255, 255, 255, 0.75)";
  context.fillRect(x - 0.75, 0, 1.5, height);
  context.fillRect(0, y - 0.75, width, 1.5);
  context.fillStyle = "white";
  context.font = "bold 18px sans-serif";
  context.textBaseline = "top";
  context.textAlign = "left";
  context.fillText(ends[0], 6, 6);
  context.textAlign = "right";
  context.fillText(ends[1], width - 6, 6);
}
