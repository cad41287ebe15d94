"""The papers' tables: complete, refused when damaged, and set beside our results correctly."""

import re
from pathlib import Path

import pytest
import torch

from airlib.errors import AirlibError
from airlib.images.saved_images import contrast_stretch, jpeg
from airlib.profiles import load_profile
from airlib.reproduction.notebook import setup
from airlib.results import Metric
from airlib.seeding import rng
from airlib.studies import paper_tables
from airlib.studies.paper_tables import (
    NOT_RUN,
    load_differences,
    load_tables,
    rankings,
    read_measured,
    side_by_side,
)

FILE = Path(paper_tables.__file__).with_suffix(".toml")
TABLES = load_tables()
NOTEBOOK = "03_air_for_gans"


def metric(name: str, value: float, method: str, seed: int = 0, pair: str = "human-baby") -> Metric:
    return Metric(name, value, 300, None, "test", pair, method, seed)


def value_of(table: str, row: str, metric_title: str, method: str) -> float:
    (found,) = (
        r for r in TABLES[table].rows if r.row == row and r.metric.title.startswith(metric_title)
    )
    return found.values[method]


# --- the file


def test_spot_checks_against_the_papers():
    assert value_of("air-1", "Human → Werewolf", "CLIP", "AIR") == 0.2125
    assert value_of("air-1", "Human → Pixar", "Intra", "NADA") == 0.4759
    assert value_of("air-fid", "Human → Baby", "FID", "SVL") == 158.76
    assert value_of("air-2", "Photo → Sketch", "Intra", "AIR") == 0.4860
    assert value_of("air-4", "Dog → Cat", "FID", "I→T") == 104.59
    assert value_of("hdn-1", "one sketch", "recall", "MTG+indomain (d)") == 0.028


def test_the_tables_are_complete():
    setups = {row.row for row in TABLES["air-1"].rows}
    assert len(setups) == 8 and len(TABLES["air-1"].rows) == 16
    assert all(list(row.values) == ["NADA", "IPL", "SVL", "AIR"] for row in TABLES["air-1"].rows)
    assert {row.row for row in TABLES["air-2"].rows} < setups
    assert [len(row.values) for row in TABLES["hdn-1"].rows] == [7, 7, 7]


def test_tables_that_repeat_a_number_agree():
    """The last column of the ablation is AIR itself, as in Table 1 and in the FIDs."""
    for setup_name in ("Human → Baby", "Dog → Cat"):
        assert value_of("air-4", setup_name, "FID", "A'→A") == value_of(
            "air-fid", setup_name, "FID", "AIR"
        )
        assert value_of("air-4", setup_name, "Intra", "A'→A") == value_of(
            "air-1", setup_name, "Intra", "AIR"
        )


def test_shares_of_raters_are_whole_numbers_of_answers():
    for row in TABLES["air-3"].rows:
        counts = {method: share * row.n for method, share in row.values.items()}
        assert all(abs(count - round(count)) < 0.07 for count in counts.values())
        assert sum(map(round, counts.values())) == row.n
    quality = TABLES["air-3"].rows[0]
    assert round(quality.values["AIR"] * quality.n) == 78


def test_every_row_names_its_source_and_pairs_that_exist():
    known = {pair for name in ("tiny", "paper") for pair in load_profile(name).pairs}
    for table in TABLES.values():
        assert re.search(r"\(arXiv \d{4}\.\d{5}\), Table \d", table.source) and table.rows
        assert re.fullmatch(r"\d\d_\w+", table.notebook)
        assert all(set(row.pairs) <= known for row in table.rows)
        assert set(table.methods) <= {method for row in table.rows for method in row.values}


def test_differences_are_between_things_that_differ():
    found = load_differences()
    assert len({d.question for d in found}) == len(found) > 10
    assert all(d.paper and d.code and d.here and d.paper != d.code for d in found)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('row = "Human → Baby"', 'setup = "Human → Baby"', "row 1: .*'setup'"),
        ('row = "Human → Baby"\n', "", "row 1: .*missing"),
        ('source = "AIR', 'origin = "AIR', "air-1: .*'origin'"),
        ("NADA = 0.3327", 'NADA = "0.3327"', "row 1: values must be numbers"),
        ("NADA = 0.3327", "NADA = nan", "row 1: values must be numbers"),
        ("NADA = 0.3327", "NADA = 33", "row 1: values must be numbers"),
        ('metric = "clip_distance"', 'metric = "clip"', "unknown metric 'clip'"),
        ('table = "air-1"', 'table = "air-9"', "table 'air-9' is unknown"),
        ('metric = "intra_lpips"', 'metric = "clip_distance"', "has it already"),
        ("[[rows]]", "[[rows", "damaged or no TOML"),
        ("[metrics.fid]", "[measures.fid]", "must hold metrics, tables, rows, differences"),
    ],
)
def test_a_damaged_file_is_refused(old, new, message, tmp_path):
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "tables.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(AirlibError, match=message):
        load_tables(path)


def test_unknown_keys_of_a_difference_are_refused(tmp_path):
    path = tmp_path / "tables.toml"
    path.write_text(FILE.read_text(encoding="utf-8").replace("question =", "about =", 1))
    with pytest.raises(AirlibError, match="difference: .*'about'"):
        load_differences(path)


# --- beside our results


def test_a_cell_holds_the_paper_and_the_mean_over_seeds():
    """Seeds 1, 2, 3 have mean 2 and Student's t half width 4.303 / sqrt(3) = 2.48."""
    metrics = [metric("clip_distance", float(seed), "nada", seed) for seed in (1, 2, 3)]
    columns, rows = side_by_side(TABLES["air-1"], {NOTEBOOK: metrics}, "tiny")
    first = dict(zip(columns, rows[0], strict=True))
    assert first["setup"] == "Human → Baby" and first["metric"] == "CLIP distance ↓"
    assert first["NADA"] == "0.3327 | 2 ± 2.5 (tiny, 3 seeds)"
    assert first["AIR"] == f"0.3325 | {NOT_RUN}"
    others = [cell for row in rows[1:] for cell in row[2:]]
    assert all(cell.endswith(f" | {NOT_RUN}") for cell in others)


def test_results_of_another_notebook_or_pair_stand_beside_nothing():
    elsewhere = {"05_hyperdomainnet": [metric("clip_distance", 1.0, "nada")]}
    other_pair = {NOTEBOOK: [metric("clip_distance", 1.0, "nada", pair="human-fox")]}
    for measured in (elsewhere, other_pair, {}):
        for table in TABLES.values():
            _, rows = side_by_side(table, measured, "tiny")
            assert all(cell.endswith(NOT_RUN) for row in rows for cell in row[2:])


def test_the_closest_of_our_metrics_is_taken():
    far, near = metric("diversity", 9.0, "nada"), metric("intra_lpips", 1.0, "nada")
    for metrics, value in (([far], "9"), ([far, near], "1")):
        _, rows = side_by_side(TABLES["air-1"], {NOTEBOOK: metrics}, "tiny")
        assert rows[1][2] == f"0.4474 | {value} (tiny, 1 seed)"


def test_gains_by_hand():
    """CLIP distances 4 and 6 of NADA, 2 and 5 of AIR: better by 2 and 1, of a mean of 5."""
    metrics = [metric("clip_distance", v, "nada", s) for s, v in enumerate((4.0, 6.0))]
    metrics += [metric("clip_distance", v, "air", s) for s, v in enumerate((2.0, 5.0, 100.0))]
    baby, lpips, *rest = rankings(
        TABLES["air-1"], {NOTEBOOK: metrics}, "AIR", "NADA", rng(0, "test")
    )
    assert baby.paper == pytest.approx(0.0002 / 0.3327) and baby.agrees and not baby.is_clear
    assert baby.ours == pytest.approx(0.3) and baby.seeds == 2
    low, high = baby.interval
    assert high - 0.3 == pytest.approx(0.3 - low) == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert lpips.paper == pytest.approx(0.0046 / 0.4474) and lpips.ours is None
    assert not lpips.agrees and not lpips.is_clear and len(rest) == 14
    (pixar,) = (r for r in rest if r.row == "Human → Pixar" and r.metric.startswith("Intra"))
    assert pixar.paper < 0  # NADA is ahead there


def test_more_is_better_where_the_metric_says_so():
    metrics = [
        metric("diversity", v, m, s) for m, v in (("nada", 1.0), ("air", 2.0)) for s in (0, 1)
    ]
    _, lpips, *_ = rankings(TABLES["air-1"], {NOTEBOOK: metrics}, "AIR", "NADA", rng(0, "test"))
    assert lpips.ours == pytest.approx(1.0) and lpips.agrees and lpips.is_clear


def test_only_results_of_tables_with_the_numbers_of_the_profile_are_read(tmp_path):
    for name, overrides, dry_run in (
        ("03_air_for_gans", {}, False),
        ("04_air_for_diffusion", {}, True),
        ("05_hyperdomainnet", {"methods.nada.steps": 3}, False),
        ("07_no_table", {}, False),
    ):
        session = setup(name, "tiny", 0, str(tmp_path), overrides, dry_run)
        session.record.add(metric("clip_distance", 0.5, "nada"))
        session.finish()
    measured, left_out = read_measured(tmp_path / "tiny")
    assert measured == {NOTEBOOK: [metric("clip_distance", 0.5, "nada")]}
    assert left_out == ["04_air_for_diffusion", "05_hyperdomainnet"]
    assert read_measured(tmp_path / "nothing") == ({}, [])


# --- what saving does


def test_contrast_is_stretched_image_by_image():
    """An image between 0.25 and 0.5 comes back between 0 and 255, whatever its neighbour is."""
    faint = torch.tensor([0.25, 0.5]).repeat(6).view(1, 3, 2, 2) * 2 - 1
    full = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)
    found = contrast_stretch(torch.cat([faint, full]))
    assert found[0].unique().tolist() == pytest.approx([-1, 1])
    assert torch.allclose(found[1], full[0])
    assert contrast_stretch(torch.full((1, 3, 4, 4), 0.3)).isfinite().all()


def test_jpeg_keeps_flat_images_and_harms_fine_detail():
    grey = torch.tensor([-0.5, 0.0, 0.7]).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    assert (jpeg(grey) - grey).abs().max() < 0.02
    noise = torch.rand(2, 3, 16, 16, generator=rng(0, "test")) * 2 - 1
    errors = [(jpeg(noise, quality) - noise).abs().mean() for quality in (95, 75, 25)]
    assert 0.02 < errors[0] < errors[1] < errors[2]
