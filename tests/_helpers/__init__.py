"""What tests share: images, networks, recorders, servers. It contains no tests."""
