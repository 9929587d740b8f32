/* When a run starts: a link that restores the form. The form goes on as it is. */
(...form) => {
  const [source, target, , , , seed] = form;
  const here = new URL(location);
  for (const [name, value] of Object.entries({ source, target, seed })) {
    here.searchParams.set(name, value);
  }
  history.replaceState(null, "", here);
  return form;
}
