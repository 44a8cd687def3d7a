"""Edit groups as data: schema, storage, sources, images, splits, importers and exports."""
