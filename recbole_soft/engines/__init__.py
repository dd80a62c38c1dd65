"""Programs that answer the questions of `distill export` with an engine. They never import recbole_soft."""
