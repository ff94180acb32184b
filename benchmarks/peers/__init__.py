"""The other tools, each used as its documentation recommends, in an environment of their own."""
