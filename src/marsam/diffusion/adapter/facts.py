"""What the methods that train an adapter let a caller choose. Imports no torch."""

from marsam.diffusion.method import Setting

LOW_RANK = (
    Setting(name="rank", type=int, default=16, minimum=1, maximum=512, help="inner size r of the two matrices"),
    Setting(name="alpha", type=float, default=16.0, minimum=0.001, maximum=4096.0, help="scale is alpha / rank"),
    Setting(name="targets", type=str, default="", help="which layers: a preset of the family"),
    Setting(name="dropout", type=float, default=0.0, minimum=0.0, maximum=0.9, help="share of the inputs dropped"),
    Setting(name="rank_stabilised", type=bool, default=False, help="scale is alpha / √rank"),
    Setting(
        name="dora",
        type=bool,
        default=False,
        help="train the length of each output's weights apart from their direction",
    ),
)
"""`targets` is checked against the presets of the run's family, whose own default stands for ''."""
