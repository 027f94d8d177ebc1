"""Query DNS resolvers."""
