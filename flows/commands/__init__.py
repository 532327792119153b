"""The commands of `bakeoff`, grouped by what a person is doing."""
