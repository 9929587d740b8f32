/* When a run starts: a link that restores the form, known as the page's own when it is reloaded. */
(source, target, seed) => {
  const here = new URL(location);
  for (const [name, value] of Object.entries({ source, target, seed })) {
    here.searchParams.set(name, value);
  }
  history.replaceState(null, "", here);
  try { sessionStorage.setItem("nada-link", here.search); } catch {}
}
