"""What a saved run is good for: the classes of images, a report, an export."""
