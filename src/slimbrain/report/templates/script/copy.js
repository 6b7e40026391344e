// A button that copies a text; where the browser keeps its clipboard to itself, the text is selected for the reader to copy.

function makeCopyable(figure) {
  const text = figure.querySelector("code");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy: ${figure.querySelector("figcaption").textContent}`);
  const status = document.createElement("span");
  status.setAttribute("role", "status");
  const tools = document.createElement("div");
  tools.className = "tools";
  tools.append(button, status);
  figure.querySelector("figcaption").after(tools);
  button.addEventListener("click", async () => {
    status.textContent = (await copied(text)) ? "Copied." : "Selected; press Ctrl or Cmd and C.";
  });
}

async function copied(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}
