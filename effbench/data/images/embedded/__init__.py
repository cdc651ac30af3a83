"""Fashion-MNIST subset that ships with the package: data, licence, digest and the script that made it."""
