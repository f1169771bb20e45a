"""Results are printed as aligned tables."""

from mmjax.cli.tables import format_number, results_table


def test_intervals_and_baselines_are_columns_beside_the_score():
    metrics = {
        "image->text/R@5": 0.28,
        "image->text/R@5/low": 0.2,
        "image->text/R@5/high": 0.36,
        "image->text/R@5/chance": 0.025,
        "image->text/median_rank": 14.0,
    }
    assert results_table(
        {"unseen": metrics, "words": {"accuracy": float("nan"), "accuracy/majority": 0.5}}
    ) == (
        "unseen                   score  95 % interval  chance\n"
        "-----------------------------------------------------\n"
        "image->text/R@5          0.280  0.200 - 0.360   0.025\n"
        "image->text/median_rank     14\n"
        "\n"
        "words     score  majority\n"
        "-------------------------\n"
        "accuracy    nan     0.500\n"
    )


def test_format_number():
    assert [format_number(value) for value in (1.0, 0.5, 12.0, 12.5, 0.0, float("inf"))] == [
        "1.000",
        "0.500",
        "12",
        "12.500",
        "0.000",
        "inf",
    ]
