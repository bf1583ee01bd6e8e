"""The founding case on one machine: curate, tune, draw, judge, report; an ordinary client of the three services."""
