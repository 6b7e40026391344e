// Everything above only adds to what the page shows without a script.

async function start() {
  followSections(document.querySelector("nav"));
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll("figure.code").forEach(makeCopyable);
  const [template, blocks, viewer] = [readJson("underlay"), readJson("window-blocks"), document.querySelector(".viewer")];
  if (template) await unpacked(template);
  const openInViewer = viewer && (await startViewer(viewer, template));
  for (const figure of document.querySelectorAll("figure.explorer")) await startExplorer(figure, template, blocks, openInViewer);
  document.documentElement.dataset.ready = "yes";
}

start();
