// Slices of a map on the template, painted voxel by voxel; nothing is interpolated.

const PLANES = [
  { name: "Sagittal", normal: 0, across: 1, up: 2, ends: ["P", "A"] },
  { name: "Coronal", normal: 1, across: 0, up: 2, ends: ["L", "R"] },
  { name: "Axial", normal: 2, across: 0, up: 1, ends: ["L", "R"] },
];
const AXES = ["x", "y", "z"];

// VIRIDIS, WARM and COLD are those of the pictures of slimbrain explain (colours.py), put in front of this script.

// Colour at a share from 0 to 1 of a row of colours.
function blend(colours, share) {
  const place = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
  const first = Math.min(Math.floor(place), colours.length - 2);
  return colours[first].map((from, part) => from + (place - first) * (colours[first + 1][part] - from));
}

function colourOf(volume, value) {
  if (!isSigned(volume)) return blend(VIRIDIS, (value - volume.low) / (volume.high - volume.low));
  return blend(value < 0 ? COLD : WARM, Math.abs(value) / largest(volume));
}

// One colour a code, null for codes that are not painted: no value, or not above the threshold.
function paletteOf(volume, threshold) {
  return Array.from({ length: 256 }, (_, code) => {
    const value = valueOf(volume, code);
    const hidden = Number.isNaN(value) || Math.abs(value) < threshold || (isSigned(volume) && value === 0);
    return hidden ? null : colourOf(volume, value);
  });
}

function rangeOf(length, valueAt) {
  return Array.from({ length }, (_, place) => valueAt(place));
}

// Step from one voxel to the next along each axis in the bytes of a volume.
function stridesOf(volume) {
  return [volume.shape[1] * volume.shape[2], volume.shape[2], 1];
}

// An image of one plane, a pixel for each voxel of the template, superior or anterior on top.
// layer: {volume, palette} or null; template: drawn beneath, or left black if not asked for.
function sliceImage(template, layer, plane, mm, withTemplate) {
  const { across, up, normal } = plane;
  const [width, height] = [template.shape[across], template.shape[up]];
  const columns = rangeOf(width, (i) => template.origin[across] + i * template.step[across]);
  const rows = rangeOf(height, (j) => template.origin[up] + (height - 1 - j) * template.step[up]);
  const image = new ImageData(width, height);
  const under = withTemplate ? readerOf(template, plane, mm[normal], columns, rows) : () => 0;
  const over = layer ? readerOf(layer.volume, plane, mm[normal], columns, rows) : () => 0;
  for (let row = 0, place = 0; row < height; row++) {
    for (let column = 0; column < width; column++, place += 4) {
      const grey = (200 * under(column, row)) / (template.steps + 1);
      image.data.set((layer && layer.palette[over(column, row)]) || [grey, grey, grey], place);
      image.data[place + 3] = 255;
    }
  }
  return image;
}

// A function from column and row to the code of the voxel there; places along each axis are looked up once.
function readerOf(volume, plane, atMm, columns, rows) {
  const strides = stridesOf(volume);
  const offset = indexAt(volume, plane.normal, atMm) * strides[plane.normal];
  const x = columns.map((mm) => indexAt(volume, plane.across, mm) * strides[plane.across]);
  const y = rows.map((mm) => indexAt(volume, plane.up, mm) * strides[plane.up]);
  return (column, row) => (offset < 0 || x[column] < 0 || y[row] < 0 ? 0 : volume.codes[offset + x[column] + y[row]]);
}

// The image enlarged to the canvas, voxels as squares.
function paint(canvas, image) {
  const small = document.createElement("canvas");
  [small.width, small.height] = [image.width, image.height];
  small.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  return context;
}

// A colour bar from low to high; what the threshold hides is grey.
function paintBar(canvas, volume, threshold) {
  const context = canvas.getContext("2d");
  for (let column = 0; column < canvas.width; column++) {
    const value = volume.low + (column / (canvas.width - 1)) * (volume.high - volume.low);
    const colour = Math.abs(value) < threshold ? [128, 128, 128] : colourOf(volume, value);
    context.fillStyle = `rgb(${colour.map(Math.round).join(",")})`;
    context.fillRect(column, 0, 1, canvas.height);
  }
}
