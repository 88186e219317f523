"""Limits of what is decoded: they bound the memory and the time that one file can take."""

# A PNG of 600 kB can decompress to 800 MB. 250 megapixels hold every camera's photos, and 750 MB of RGB.
MAX_PIXELS = 250_000_000

# A larger JPEG is decoded at half its width and height, which takes a quarter of the memory.
DRAFT_PIXELS = 100_000_000

# At its peak decoding takes 8 bytes a pixel, and 16 for WebP: 2 and 4 GB for `MAX_PIXELS`. Most machines have
# that once, but not for each of 64 threads, so images above this size wait for each other. Most photos are below it.
LARGE_PIXELS = 20_000_000

# Enough for the EXIF block of every camera; a longer one is not there for the orientation.
MAX_EXIF_BYTES = 1024 * 1024

# Each scan of a progressive JPEG goes over the whole image and may take a hundred bytes, so that a file of some MB
# could keep a core busy for days. Encoders make ten or twenty, which are read of the largest image.
MAX_JPEG_SCANS = 100
MAX_SCANNED_PIXELS = 20 * MAX_PIXELS

# Chunks, segments or extensions of a file: each takes steps of Python, even an empty one. 250 MB in chunks of 8 kB,
# as libpng writes them, are 30,000.
MAX_PARTS = 100_000


def count_scans_read(n_pixels: int) -> int:
    """Return how many scans of a JPEG of `n_pixels` are read at most."""
    return min(MAX_JPEG_SCANS, MAX_SCANNED_PIXELS // min(n_pixels, MAX_PIXELS))
