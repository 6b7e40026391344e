// Volumes as the page carries them (report/volumes.py): one byte per voxel, 0 for "no value", x slowest.

function readJson(id) {
  const element = document.getElementById(id);
  return element && JSON.parse(element.textContent);
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The volume with its bytes read; what was read once is kept.
async function unpacked(volume) {
  if (!volume.codes) volume.codes = await inflate(volume.data);
  return volume;
}

// Place of the voxel along one axis that holds this coordinate; -1 beyond the volume.
function indexAt(volume, axis, mm) {
  const index = Math.round((mm - volume.origin[axis]) / volume.step[axis]);
  return index >= 0 && index < volume.shape[axis] ? index : -1;
}

function codeAt(volume, mm) {
  const [x, y, z] = mm.map((coordinate, axis) => indexAt(volume, axis, coordinate));
  return Math.min(x, y, z) < 0 ? 0 : volume.codes[(x * volume.shape[1] + y) * volume.shape[2] + z];
}

function valueOf(volume, code) {
  return code ? volume.low + ((code - 1) / volume.steps) * (volume.high - volume.low) : NaN;
}

function isSigned(volume) {
  return volume.low < 0;
}

function largest(volume) {
  return Math.max(Math.abs(volume.low), Math.abs(volume.high));
}

function show(value, unit) {
  // Two ends of one scale are compared at a glance: 6.65e-6 and 9.29e-8, not 0.00000665.
  const small = value !== 0 && Math.abs(value) < 1e-3;
  const text = (small ? value.toExponential(2) : Number(value.toPrecision(3)).toString()).replaceAll("-", "\u2212");
  return unit ? `${text} ${unit}` : text;
}

// The ends of a clipped scale stand for all that lies beyond.
function showCode(volume, code) {
  const top = volume.clipped && code === volume.steps + 1 && volume.high > 0;
  const bottom = volume.clipped && code === 1 && isSigned(volume);
  return (top ? "at least " : bottom ? "at most " : "") + show(valueOf(volume, code), volume.unit);
}
