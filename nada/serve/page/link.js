/* When a run starts: a link that restores the form. */
(source, target, seed) => {
  const here = new URL(location);
  for (const [name, value] of Object.entries({ source, target, seed })) {
    here.searchParams.set(name, value);
  }
  history.replaceState(null, "", here);
}
