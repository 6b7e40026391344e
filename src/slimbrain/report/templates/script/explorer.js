// Moving from window to window of a session, by pointer over the scores or by slider: what was measured, what happened, the mean map.

const CUTS_MM = [-38, -20, -2, 16, 34, 52];
const CUT_SCALE = 2;

async function startExplorer(figure, template, blocks, openInViewer) {
  const value = JSON.parse(figure.querySelector("script").textContent);
  const { windows, axis, label } = value;
  const part = (name) => figure.querySelector(`.${name}`);
  const slider = part("window-slider");
  const cursor = addCursor(figure.querySelector("svg"));
  const end = windows.end.at(-1);
  const maps = value.maps && blocks && template ? { ...value.maps, codes: await inflate(value.maps.data) } : null;
  const cuts = maps ? CUTS_MM.map((mm) => addCut(part("cuts"), template, mm)) : [];

  const volumeOf = (index) => windowVolume(maps, blocks, index, `${label}, ${span(windows, index)}`);
  const select = (index) => {
    slider.value = index;
    slider.setAttribute("aria-valuetext", summary(windows, index));
    part("headline").textContent = summary(windows, index);
    part("readout").textContent = details(windows, index);
    cursor.place(axis, windows.onset[index] / end, windows.end[index] / end);
    if (maps) drawCuts(part("cuts"), cuts, template, volumeOf(index));
  };

  followPointer(figure.querySelector("svg"), axis, (share) => {
    const index = windows.onset.findLastIndex((onset) => onset <= share * end);
    if (index >= 0 && index !== Number(slider.value)) select(index);
  });
  slider.addEventListener("input", () => select(Number(slider.value)));
  part("next-chosen").addEventListener("click", () => select(nextChosen(windows, Number(slider.value))));
  if (maps) {
    const scale = volumeOf(0);
    paintBar(part("bar"), scale, 0);
    part("bar-low").textContent = show(scale.low, "SD");
    part("bar-high").textContent = show(scale.high, "SD");
    part("open-in-viewer").addEventListener("click", () => openInViewer(volumeOf(Number(slider.value))));
  }
  select(windows.rank.indexOf(Math.min(...windows.rank)));
  figure.querySelector(".panel").hidden = false;
}

function span(windows, index) {
  return `${windows.onset[index].toFixed(1)} to ${windows.end[index].toFixed(1)} s`;
}

function summary(windows, index) {
  const chosen = windows.chosen[index] ? "chosen" : "not chosen";
  return `Window ${index + 1} of ${windows.rank.length}: ${span(windows, index)}, rank ${windows.rank[index]}, ${chosen}`;
}

function details(windows, index) {
  const told = (name) => (windows[name][index] === null ? "n/a" : show(windows[name][index]));
  const scores = ["score", "informativeness", "novelty", "explained"].map((name) => `${name} ${told(name)}`);
  const moved = windows.fd_mean ? `FD mean ${told("fd_mean")} mm, largest ${told("fd_max")} mm` : "FD not known";
  const flagged = windows.flagged[index] ? `, ${windows.flagged[index]} flagged frame${windows.flagged[index] === 1 ? "" : "s"}` : ", no flagged frame";
  const events = windows.events[index] || "none begins here";
  return `${scores.join(", ")}. DVARS ${told("dvars")}, ${moved}${flagged}. Events: ${events}.`;
}

// The chosen window after this one in time, or the first again.
function nextChosen(windows, index) {
  const after = windows.chosen.findIndex((chosen, place) => chosen && place > index);
  return after >= 0 ? after : Math.max(windows.chosen.indexOf(1), 0);
}

// A bar over all panels of the drawing, at shares of its time axis.
function addCursor(svg) {
  const bar = document.createElementNS(svg.namespaceURI, "rect");
  const { width, height } = svg.viewBox.baseVal;
  bar.setAttribute("class", "cursor");
  bar.setAttribute("height", height);
  svg.append(bar);
  return {
    place(axis, from, to) {
      const x = (share) => width * (axis.left + share * (axis.right - axis.left));
      bar.setAttribute("x", x(from));
      bar.setAttribute("width", x(to) - x(from));
    },
  };
}

// Tell the share of the time axis under the pointer while it moves over the drawing.
function followPointer(svg, axis, tell) {
  const follow = (event) => {
    const box = svg.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width - axis.left) / (axis.right - axis.left);
    if (share >= 0 && share < 1) tell(share);
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
}

// The mean map of one window as a volume: its values are stored for the cubes in the brain alone.
function windowVolume(maps, blocks, index, name) {
  const n = blocks.index.length;
  const codes = new Uint8Array(blocks.shape[0] * blocks.shape[1] * blocks.shape[2]);
  blocks.index.forEach((place, block) => (codes[place] = maps.codes[index * n + block]));
  const about = "Mean signal of this window, z-scored over its session: 0 is the session's own mean.";
  const volume = { ...maps, ...blocks, name, unit: "SD", about, threshold: 0.3, codes };
  return { ...volume, peak: peakOf(volume) };
}

function peakOf(volume) {
  let best = 0;
  const magnitude = (place) => (volume.codes[place] ? Math.abs(valueOf(volume, volume.codes[place])) : -1);
  for (let place = 1; place < volume.codes.length; place++) if (magnitude(place) > magnitude(best)) best = place;
  const strides = stridesOf(volume);
  const index = strides.map((stride, axis) => Math.floor(best / stride) % volume.shape[axis]);
  const mm = index.map((place, axis) => volume.origin[axis] + place * volume.step[axis]);
  return { mm, value: valueOf(volume, volume.codes[best]) };
}

function addCut(box, template, mm) {
  const figure = document.createElement("div");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [template.shape[0] * CUT_SCALE, template.shape[1] * CUT_SCALE];
  const text = document.createElement("span");
  text.textContent = `z ${mm}`.replace("-", "\u2212");
  figure.append(canvas, text);
  box.append(figure);
  return { canvas, mm };
}

function drawCuts(box, cuts, template, volume) {
  const layer = { volume, palette: paletteOf(volume, 0) };
  for (const { canvas, mm } of cuts) paint(canvas, sliceImage(template, layer, PLANES[2], [0, 0, mm], true));
  const { mm, value } = volume.peak;
  box.setAttribute("aria-label", `Mean map in ${cuts.length} axial slices; largest value ${show(value, "SD")} at ${place(mm)}.`);
}

function place(mm) {
  return mm.map((coordinate, axis) => `${AXES[axis]} ${Math.round(coordinate)}`.replace("-", "\u2212")).join(", ") + " mm";
}
