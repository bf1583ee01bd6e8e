"""Pictures that teach little: blurred, empty, too dark or too bright, too small. Measured once, at import.

Thresholds flag for a person; only a picture without content, without any sharp part, or too small to be one, fails.
"""

from collections.abc import Iterator

from marsam.catalog.datasets import Finding
from marsam.imaging.pool import Decoded

NAME = "quality"
SMALLEST_SIDE = 64
LEAST_ENTROPY, LEAST_CONTRAST = 0.3, 2.0
LEAST_SHARPNESS, NO_SHARPNESS = 25.0, 4.0
"""Of a picture's sharpest part. A Gaussian blur over 2 px at 256 px goes below the first, one over 4 px below the
second.
"""
DARKEST, BRIGHTEST = 20.0, 245.0

_NOTES: dict[str, tuple[str, str]] = {
    "FIRST_FRAME_ONLY": ("info", "An animation: its first frame was taken."),
    "ORIENTED": ("info", "Turned upright as the camera recorded."),
    "SCALED_FROM_16_BIT": ("info", "Scaled from 16 to 8 bits."),
    "MATTED_ON_WHITE": ("info", "Transparent parts were laid on white."),
    "CONVERTED_TO_SRGB": ("info", "Converted to sRGB by its colour profile."),
    "CMYK_WITHOUT_PROFILE": ("warn", "Print colours without a profile: the conversion is a guess, look at it."),
    "PROFILE_UNREADABLE": ("warn", "Its colour profile is damaged; the colours were taken as sRGB."),
}


def findings(decoded: Decoded) -> Iterator[Finding]:
    """Yield what decoding and measuring say of one picture."""
    for note in decoded.notes:
        severity, message = _NOTES[note]
        yield Finding(check="decode", severity="warn" if severity == "warn" else "info", reason=note, message=message)
    side = min(decoded.width, decoded.height)
    if side < SMALLEST_SIDE:
        message = f"{decoded.width} × {decoded.height}: the shorter side needs at least {SMALLEST_SIDE} pixels."
        yield Finding(check=NAME, severity="fail", reason="TOO_SMALL", message=message)
    measured = decoded.measures
    if measured.entropy < LEAST_ENTROPY or measured.contrast < LEAST_CONTRAST:
        message = f"Almost one colour ({measured.entropy:.2f} bits of information per pixel)."
        yield Finding(check=NAME, severity="fail", reason="LOW_INFORMATION", message=message)
    elif measured.sharpness < LEAST_SHARPNESS:
        message = f"Blurred: the sharpest part has {measured.sharpness:.0f}; over {LEAST_SHARPNESS:.0f} is usual."
        hopeless = measured.sharpness < NO_SHARPNESS
        yield Finding(check=NAME, severity="fail" if hopeless else "warn", reason="BLURRED", message=message)
    if measured.brightness < DARKEST:
        message = f"Very dark (mean brightness {measured.brightness:.0f} of 255)."
        yield Finding(check=NAME, severity="warn", reason="DARK", message=message)
    elif measured.brightness > BRIGHTEST:
        message = f"Very bright (mean brightness {measured.brightness:.0f} of 255)."
        yield Finding(check=NAME, severity="warn", reason="BRIGHT", message=message)
