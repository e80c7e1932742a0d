"""Published methods that learn, one folder each. They share the rooms below and never import each other."""
