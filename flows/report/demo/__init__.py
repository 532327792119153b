"""A small recorded campaign as a report page that ships with Bakeoff: `bakeoff demo`. Made by `make demo`."""
