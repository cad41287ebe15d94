"""Where published weights and data come from: manifests, verified downloads, archives."""
