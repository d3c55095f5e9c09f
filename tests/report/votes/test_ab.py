"""The blind A/B page: what is drawn, that nothing names a method, and that its votes come back and are counted."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import save_arrays
from qdit.core.run import Run
from qdit.report.data.published import printed_name
from qdit.report.votes.ab_page import Page, read_page, scramble, unscramble, write_page
from qdit.report.votes.ab_trials import CONTROL, PAIR, SAME, Contest, Samples, Trial, contests_of, draw_trials, drawn
from qdit.report.votes.statistics import Ballot, read_ballot
from qdit.report.votes.votes_report import votes_text
from tests.report.conftest import (
    PLAIN,
    TABLE2_METHODS,
    change_protocol,
    make_profile,
    of_another_protocol,
    record,
    write_record,
)

IMAGES, CHUNK = 20, 8
CHROMIUM = shutil.which("chromium")


def with_controls() -> dict[str, Any]:
    """The made-up profile with negative controls of its first setting."""
    profile = make_profile()
    block = {"setting": PLAIN, "form": "natural", "scope": "common", "bits": ["w2a2"], "methods": ["fp", "rtn"]}
    profile["tables"]["qc"] = {"kind": "qc", "blocks": [block]}
    return profile


def pixels(key: Run) -> np.ndarray:
    """Images that say which run they are of."""
    shade = TABLE2_METHODS.index(key.label) * 50 + key.weight_bits
    images = np.full((IMAGES, 1, 8, 8), shade, np.uint8)
    images[:, 0, 0, 0] = np.arange(IMAGES)
    return images


@pytest.fixture
def sampled(tmp_path: Path) -> Path:
    """Runs at W4A4 and the controls, with all their chunks."""
    folder, profile = tmp_path / "results" / "mini", with_controls()
    keys = [Run(PLAIN, "natural", label, "w4a4", "common") for label in TABLE2_METHODS if label != "fp"]
    keys += [Run(PLAIN, "natural", "fp", "w16a16", "common"), Run(PLAIN, "natural", "rtn", "w2a2", "common")]
    for key in keys:
        value = record(key, profile)
        change_protocol(value, images=IMAGES, chunk=CHUNK)
        write_record(folder, key, value)
        for chunk, first in enumerate(range(0, IMAGES, CHUNK)):
            arrays = {"images": pixels(key)[first : first + CHUNK], "labels": np.arange(IMAGES)[first:][:CHUNK] % 10}
            save_arrays(key.folder(folder) / "samples" / f"{chunk:05d}.npz", arrays)
    return folder


def draw(sampled: Path, *, seed: int = 0, each: int = 3, catch: int = 4) -> tuple[list[Trial], list[str]]:
    profile = with_controls()
    return draw_trials(profile, contests_of(profile), Samples(sampled), seed=seed, each=each, catch=catch)


def test_every_pair_of_methods_is_asked_equally_often_on_different_images(sampled: Path) -> None:
    trials, notes = draw(sampled)
    pairs = [trial for trial in trials if trial.kind == PAIR]
    asked = Counter(frozenset((trial.left.label, trial.right.label)) for trial in pairs)
    assert len(asked) == 6 and set(asked.values()) == {3} and notes == []
    assert len({(frozenset((trial.left, trial.right)), trial.image) for trial in pairs}) == len(pairs)
    kinds = [trial.kind for trial in trials]
    assert kinds != sorted(kinds) and len({trial.left.label for trial in pairs}) == 4


def test_the_first_named_is_on_the_left_about_half_of_the_time(sampled: Path) -> None:
    trials = [trial for seed in range(20) for trial in draw(sampled, seed=seed)[0] if trial.kind == PAIR]
    left = sum(TABLE2_METHODS.index(trial.left.label) < TABLE2_METHODS.index(trial.right.label) for trial in trials)
    assert abs(left - len(trials) / 2) < 4 * (len(trials) / 4) ** 0.5


def test_catch_trials_have_a_known_answer(sampled: Path) -> None:
    trials, _ = draw(sampled)
    same = [trial for trial in trials if trial.kind == SAME]
    control = [trial for trial in trials if trial.kind == CONTROL]
    assert len(same) == len(control) == 4
    assert all(trial.left == trial.right for trial in same)
    assert all({trial.left.bits, trial.right.bits} == {"w16a16", "w2a2"} for trial in control)


def test_fewest_bits_are_the_default_and_a_choice_is_obeyed() -> None:
    profile = make_profile()
    (default,) = contests_of(profile)
    assert (default.setting, default.bits, default.labels) == (PLAIN, "w4a4", tuple(TABLE2_METHODS))
    chosen = contests_of(profile, bits=["w4a8"], methods=["rtn", "q-dit"])
    assert [(one.setting, one.bits, one.labels) for one in chosen] == [
        (PLAIN, "w4a8", ("rtn", "q-dit")),
        ("digits-cfg1.5-s20", "w4a8", ("rtn", "q-dit")),
    ]
    assert [one.form for one in contests_of(profile, table="table4", forms=["salient"])] == ["salient"]
    with pytest.raises(ConfigError, match="table 'table9' is not in the profile"):
        contests_of(profile, table="table9")
    with pytest.raises(ConfigError, match="two of these methods"):
        contests_of(profile, methods=["rtn"])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"methods": ["rtn", "q-dit", "q-ditt"]}, r"--method 'q-ditt': table2 has fp, rtn, .*; did you mean 'q-dit'\?"),
        ({"settings": [PLAIN, "digits"]}, "--setting 'digits': table2 has digits-cfg1.0-s20, "),
        ({"forms": ["natural", "salty"]}, "--form 'salty': table2 has natural"),
        ({"bits": ["w4a8", "w44"]}, "--bits 'w44': table2 has .*w4a8"),
    ],
)
def test_a_name_that_the_table_lacks_is_not_left_out_in_silence(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contests_of(make_profile(), **choice)


def make(sampled: Path, name: str = "ab.html", **options: Any) -> Path:
    profile = with_controls()
    out = sampled / name
    write_page(profile, contests_of(profile), sampled, out, **options)
    return out


def test_equal_seeds_give_equal_bytes_and_others_other_pages(sampled: Path) -> None:
    first, second, other = make(sampled), make(sampled, "again.html"), make(sampled, "other.html", seed=1)
    assert first.read_bytes() == second.read_bytes()
    assert read_page(first).digest != read_page(other).digest


def test_the_page_shows_the_images_that_its_key_says(sampled: Path) -> None:
    page = make(sampled)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"))[1])
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in data["images"]]
    questions = read_page(page).questions
    assert len(questions) == len(data["trials"]) == 6 * 2 + 8
    for question, (left, right, label) in zip(questions, data["trials"], strict=True):
        for name, place in ((question.left, left), (question.right, right)):
            label_of, _, bits = name.partition(" ")
            weight_bits = 2 if bits else 16 if label_of == "fp" else 4
            assert shown[place][1, 1] == TABLE2_METHODS.index(label_of) * 50 + weight_bits
        numbers = {int(shown[place][0, 0]) for place in (left, right)}
        assert len(numbers) == 1 and numbers.pop() % 10 == label
        side = {"left": question.left, "right": question.right}.get(question.answer)
        assert {PAIR: question.answer == "", SAME: question.answer == "tie", CONTROL: side == "fp"}[question.kind]


def test_nothing_readable_names_a_method_and_nothing_comes_from_outside(sampled: Path) -> None:
    text = make(sampled).read_text(encoding="utf-8")
    readable = re.sub(r"[A-Za-z0-9+/=]{60,}", "", text)
    assert len(readable) < len(text) - 1000
    for label in TABLE2_METHODS:
        for word in (label, printed_name(label)):
            assert not re.search(rf"\b{re.escape(word)}\b", readable, flags=re.IGNORECASE), word
    assert "://" not in readable and "@import" not in readable and "url(" not in readable


def test_scrambling_can_be_undone() -> None:
    digest = "0123456789abcdef" * 4
    assert unscramble(scramble("Q-DiT über alles" * 9, digest), digest) == "Q-DiT über alles" * 9
    assert b"Q-DiT" not in base64.b64decode(scramble("Q-DiT" * 9, digest))


def test_a_changed_page_is_refused(sampled: Path) -> None:
    page = make(sampled)
    text = page.read_text(encoding="utf-8")
    swapped = re.sub(r'"trials": \[\[(\d+), (\d+),', r'"trials": [[\2, \1,', text)
    for content in (swapped, "", text.replace('id="data"', 'id="date"')):
        assert content != text
        page.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match="not a page of `qdit ab`, or changed since"):
            read_page(page)
    with pytest.raises(DataError, match="no such file"):
        read_page(sampled / "nowhere.html")


def test_runs_that_are_not_there_are_left_out_and_named(sampled: Path) -> None:
    shutil.rmtree(Run(PLAIN, "natural", "rtn", "w2a2", "common").folder(sampled))
    shutil.rmtree(Run(PLAIN, "natural", "q-dit", "w4a4", "common").folder(sampled) / "samples")
    trials, notes = draw(sampled)
    assert {trial.kind for trial in trials} == {PAIR, SAME}
    assert "q-dit" not in {key.label for trial in trials for key in (trial.left, trial.right)}
    assert "q-dit w4a4: missing: no samples" in notes and any("destroyed" in note for note in notes)
    shutil.rmtree(sampled / "runs")
    with pytest.raises(DataError, match=r"no two runs to compare \(fp w16a16: missing: no metrics.json"):
        draw(sampled)


def test_runs_of_two_protocols_are_refused(sampled: Path) -> None:
    key = Run(PLAIN, "natural", "q-dit", "w4a4", "common")
    content = record(key, with_controls())
    of_another_protocol(content)
    write_record(sampled, key, content)
    with pytest.raises(DataError, match="not sampled by one protocol"):
        draw(sampled)


def test_clips_and_lost_images_are_refused(sampled: Path) -> None:
    path = Run(PLAIN, "natural", "fp", "w16a16", "common").folder(sampled) / "samples" / "00000.npz"
    save_arrays(path, {"images": np.zeros((8, 3, 4, 8, 8), np.uint8), "labels": np.arange(8)})
    with pytest.raises(DataError, match=r"00000\.npz: holds uint8 of shape \(3, 4, 8, 8\), no images"):
        make(sampled, each=20)
    save_arrays(path, {"images": np.zeros((2, 1, 8, 8), np.uint8), "labels": np.arange(2)})
    with pytest.raises(DataError, match=r"00000\.npz: holds no image \d with a label"):
        make(sampled, each=20)


def ballots_of(page: Page, *, likes: str, unreliable: bool = False) -> dict[int, str]:
    """A voter who prefers one method, sees no difference between others, and answers catch trials well or badly."""
    votes = {}
    for number, question in enumerate(page.questions):
        preferred = {question.left: "left", question.right: "right"}.get(likes, "tie")
        right = question.answer or preferred
        votes[number] = right if question.kind == PAIR or not unreliable else "left" if right != "left" else "right"
    return votes


def test_votes_are_counted_by_pair_with_scores_and_agreement(sampled: Path) -> None:
    page = read_page(make(sampled, each=5))
    pages = {page.digest: page}
    voters = [Ballot(f"{name}.json", page.digest, name, ballots_of(page, likes="q-dit")) for name in ("Anna", "Ben")]
    text, frame = votes_text(voters, pages, draws=100)
    rows = {(row.a, row.b): row for row in frame.itertuples()}
    won = rows["G4W+P4A", "Q-DiT"]
    assert (won.votes, won.a_better, won.equal, won.b_better) == (10, 0, 0, 10)
    assert won.share == 0 and won.high == pytest.approx(0.2775, abs=1e-4) and won.p == pytest.approx(2 / 2**10)
    tied = rows["FP", "RTN"]
    assert (tied.a_better, tied.equal, tied.b_better) == (0, 10, 0) and np.isnan(tied.share) and tied.p == 1
    assert len(rows) == 6 and "Cohen's kappa 1.00 of 2 voters on 30 trials" in text
    scores = text[text.index("Bradley–Terry") :].splitlines()[1:5]
    assert scores[0].split()[0] == "Q-DiT" and float(scores[0].split()[1]) > 1
    assert "Anna.json Anna: 38 votes, twice 4 of 4, destroyed 4 of 4" in text


def test_unreliable_voters_can_be_left_out(sampled: Path) -> None:
    page = read_page(make(sampled))
    good = Ballot("good.json", page.digest, "", ballots_of(page, likes="rtn"))
    bad = Ballot("bad.json", page.digest, "", ballots_of(page, likes="fp", unreliable=True))
    text, frame = votes_text([good, bad], {page.digest: page}, least=0.5, draws=100)
    assert "bad.json: 20 votes, twice 0 of 4, destroyed 0 of 4  left out: below 0.5" in text
    assert frame["votes"].sum() == 12 and "one voter for each page" in text
    assert votes_text([good, bad], {page.digest: page}, draws=100)[1]["votes"].sum() == 24
    with pytest.raises(DataError, match="no votes on two methods by 0 voters"):
        votes_text([bad], {page.digest: page}, least=0.5)


def test_votes_on_another_page_or_beyond_it_are_refused(sampled: Path) -> None:
    page = read_page(make(sampled))
    with pytest.raises(DataError, match=r"a\.json: votes on page ffffffffffff…, given is"):
        votes_text([Ballot("a.json", "f" * 64, "", {0: "left"})], {page.digest: page})
    with pytest.raises(DataError, match=r"a\.json: a vote on trial 99, the page has 20"):
        votes_text([Ballot("a.json", page.digest, "", {99: "left"})], {page.digest: page})


def test_three_voters_have_fleiss_kappa_and_pages_are_pooled(sampled: Path) -> None:
    pages = [read_page(make(sampled, f"{seed}.html", seed=seed)) for seed in (0, 1)]
    voters = [Ballot(f"{name}.json", pages[0].digest, "", ballots_of(pages[0], likes="rtn")) for name in "abc"]
    voters.append(Ballot("d.json", pages[1].digest, "", ballots_of(pages[1], likes="rtn")))
    text, frame = votes_text(voters, {page.digest: page for page in pages}, draws=100)
    assert frame["votes"].sum() == 4 * 12 and "Fleiss's kappa 1.00 of 3 voters on 12 trials" in text


DRIVE = """<script>
window.confirm = () => true;
HTMLAnchorElement.prototype.click = () => {};  // a download would keep the browser open
const kept = URL.createObjectURL;
URL.createObjectURL = blob => { blob.text().then(text => {
  const out = document.createElement("pre"); out.id = "saved"; out.textContent = text; document.body.append(out); });
  return kept(blob); };
const press = key => document.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
const click = id => document.getElementById(id).click();
%s
</script></body>"""


def browse(page: Path, script: str, profile: Path) -> str:
    """The page's DOM after a script ran on it in headless Chromium; `profile` keeps what the browser keeps."""
    text = page.read_text(encoding="utf-8").replace("</body>", DRIVE % script)
    driven = page.with_name("driven.html")
    driven.write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*command, driven.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser_votes_are_kept_revealed_at_the_end_and_saved(sampled: Path, tmp_path: Path) -> None:
    page, kept = make(sampled), tmp_path / "browser"
    first = browse(page, "click('start'); press('ArrowLeft'); press('ArrowRight'); press('Backspace');", kept)
    assert ">2 of 20<" in first and '<section id="end" hidden' in first
    part = browse(page, "click('start'); press(' '); click('stop'); click('save');", kept)
    assert "3 of 20 done" in part and "Q-DiT" not in part and '<table id="result"></table>' in part
    script = "document.getElementById('voter').value = 'Anna'; click('start');"
    script += "for (let n = 0; n < 17; n++) press('ArrowRight'); click('save');"
    done = browse(page, script, kept)
    assert "Done. Thank you!" in done and "Q-DiT" in done
    votes = tmp_path / "votes.json"
    votes.write_text(re.search(r'<pre id="saved">(.*?)</pre>', done, flags=re.DOTALL)[1], encoding="utf-8")
    found = read_ballot(votes)
    assert found.voter == "Anna" and found.page == read_page(page).digest
    assert found.votes == {0: "left", 1: "right", 2: "tie"} | dict.fromkeys(range(3, 20), "right")


def test_a_rename_moves_no_draw() -> None:
    """What a draw hashes is fixed, so that pages that were made before are made again."""
    run = Run("s", "natural", "q-dit", "w4a8", "common")
    text = "RunKey(setting='s', form='natural', label='q-dit', weight_bits=4, activation_bits=8, scope='common',"
    text += " mode='simulate')"
    number = int.from_bytes(hashlib.blake2b(f"0/ab/side/{text}".encode(), digest_size=8).digest(), "little")
    assert drawn(0, "side", run) == number
    trial = Trial("pair", Contest("s", "natural", "w4a8", "common", ("rtn", "q-dit")), run, run, 3)
    contest = "Contest(setting='s', form='natural', bits='w4a8', scope='common', labels=('rtn', 'q-dit'))"
    whole = f"0/ab/order/Trial(kind='pair', contest={contest}, left={text}, right={text}, image=3)"
    number = int.from_bytes(hashlib.blake2b(whole.encode(), digest_size=8).digest(), "little")
    assert drawn(0, "order", trial) == number
