// The table of contents follows: the section that is being read is marked.

function followSections(nav) {
  const links = new Map([...nav.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const mark = (id) => {
    for (const [name, link] of links) name === id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
    // Sideways only: the page itself must not move.
    nav.scrollTo({ left: links.get(id).offsetLeft - nav.clientWidth / 3 });
  };
  const sections = [...document.querySelectorAll("section")];
  const update = () => {
    const read = sections.filter((section) => section.getBoundingClientRect().top <= innerHeight / 3);
    mark((read.at(-1) || sections[0]).id);
  };
  addEventListener("scroll", update, { passive: true });
  update();
}
