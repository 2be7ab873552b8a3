"""What the demonstration is played with: a real classifier, worse versions of it, and real photographs. All of it comes from package registries."""
