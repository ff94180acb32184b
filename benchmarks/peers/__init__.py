"""The peers, each as its makers mean it to be used. They run in an environment of their own."""
