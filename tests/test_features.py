"""What a table demands: kept, harmless, or refused by name before anything is asked or written."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cycle import SIZE, run_cycle
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction
from fakes import FakeLog
from raising import fails
from rows import LOG, before_commit, indices_of, make_rows, make_table

import ctkit
from ctkit.cli import main
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.verbs import merge_staged
from ctkit.errors import SchemaMismatchError, TableError
from ctkit.lake.features import FEATURES, refused_features
from ctkit.schema import GAP_SCHEMA


def demand(path, *, versions=(1, 7), readers=None, writers=None, properties=None, columns=None, schema=None):
    """Change what the first commit of a table says, as if another writer had created it so.

    Parameters
    ----------
    versions
        Lowest version of readers, and of writers.
    readers, writers
        Features that they must know; those of readers are listed for writers, too.
    properties
        Of the table.
    columns
        By the name of a column its metadata.
    schema
        Changes the table's schema in its JSON form.
    """
    commit = path / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in commit.read_text().splitlines()]
    for action in actions:
        if "protocol" in action:
            protocol = {"minReaderVersion": versions[0], "minWriterVersion": versions[1]}
            if versions[0] == 3:
                protocol["readerFeatures"] = list(readers or ())
            if versions[1] == 7:
                protocol["writerFeatures"] = [*(readers or ()), *(writers or ())]
            action["protocol"] = protocol
        if "metaData" in action:
            fields = json.loads(action["metaData"]["schemaString"])
            for field in fields["fields"]:
                field["metadata"] |= (columns or {}).get(field["name"], {})
            if schema:
                schema(fields)
            action["metaData"]["schemaString"] = json.dumps(fields)
            action["metaData"]["configuration"] |= properties or {}
    commit.write_text("".join(json.dumps(action) + "\n" for action in actions))


def each_field(**changes):
    """Return a change of all columns."""

    def change(schema):
        for field in schema["fields"]:
            field |= changes

    return change


def no_nulls_in_lists(schema):
    """Promise that lists hold no nulls."""
    for field in schema["fields"]:
        if isinstance(field["type"], dict):
            field["type"]["containsNull"] = False


def reverse(schema):
    """Turn the order of the columns round."""
    schema["fields"].reverse()


HARMLESS = {
    "containsNull = false": {"versions": (1, 2), "schema": no_nulls_in_lists},
    "all nullable": {"versions": (1, 2), "schema": each_field(nullable=True)},
    "another order": {"versions": (1, 2), "schema": reverse},
    "comments": {"versions": (1, 2), "schema": each_field(metadata={"comment": "of others"})},
    "writer 1": {"versions": (1, 1)},
    "writer 5": {"versions": (1, 5)},
    "reader 2": {"versions": (2, 5), "properties": {"delta.columnMapping.mode": "none"}},
    "no features": {"versions": (3, 7)},
    "none of them used": {
        "versions": (3, 7),
        "readers": ["columnMapping", "deletionVectors"],
        "writers": ["appendOnly", "checkConstraints", "generatedColumns", "invariants"],
        "properties": {"delta.enableDeletionVectors": "false", "delta.appendOnly": "False"},
    },
    "not for our types": {"versions": (3, 7), "readers": ["timestampNtz", "variantType", "v2Checkpoint"]},
    "changeDataFeed": {"writers": ["changeDataFeed"], "properties": {"delta.enableChangeDataFeed": "true"}},
    "default not enabled": {"versions": (1, 2), "columns": {"is_ca": {"CURRENT_DEFAULT": "false"}}},
    "properties of others": {"versions": (1, 2), "properties": {"delta.foo": "bar", "delta.checkpointInterval": "3"}},
}

REFUSED = {
    "appendOnly": ("remove", {"versions": (1, 2), "properties": {"delta.appendOnly": "true"}}),
    "checkConstraints": ("append", {"versions": (1, 3), "properties": {"delta.constraints.old": "cert_index > 9"}}),
    "invariants": (
        "append",
        {"versions": (1, 2), "columns": {"sha1": {"delta.invariants": '{"expression": {"expression": "false"}}'}}},
    ),
    "generatedColumns": (
        "append",
        {"versions": (1, 4), "columns": {"seen_date": {"delta.generationExpression": "CAST(seen AS STRING)"}}},
    ),
    "identityColumns": ("both", {"versions": (1, 6)}),
    "rowTracking": ("both", {"writers": ["rowTracking"]}),
    "allowColumnDefaults": ("both", {"writers": ["allowColumnDefaults"]}),
    "inCommitTimestamp": ("both", {"writers": ["inCommitTimestamp"]}),
    "vacuumProtocolCheck": ("both", {"versions": (3, 7), "readers": ["vacuumProtocolCheck"]}),
    "typeWidening": ("both", {"versions": (3, 7), "readers": ["typeWidening"]}),
    "someFutureFeature": ("both", {"writers": ["someFutureFeature"]}),
    "writer version 8": ("both", {"versions": (1, 8)}),
}

UNREADABLE = {
    "columnMapping": {
        "versions": (2, 5),
        "properties": {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "20"},
        "schema": lambda schema: [
            field["metadata"].update({"delta.columnMapping.id": at, "delta.columnMapping.physicalName": f"col-{at}"})
            for at, field in enumerate(schema["fields"], 1)
        ],
    },
    "deletionVectors": {
        "versions": (3, 7),
        "readers": ["deletionVectors"],
        "properties": {"delta.enableDeletionVectors": "true"},
    },
    "typeWidening": {
        "versions": (3, 7),
        "readers": ["typeWidening"],
        "columns": {"cert_index": {"delta.typeChanges": [{"toType": "long", "fromType": "integer"}]}},
    },
    "coordinatedCommits-preview": {
        "writers": ["coordinatedCommits-preview"],
        "properties": {"delta.coordinatedCommits.commitCoordinator-preview": "dynamodb"},
    },
}


def everything_in(folder: Path) -> dict[str, int]:
    """Return each path below a folder, with its size."""
    return {str(path): path.stat().st_size for path in folder.rglob("*")}


@pytest.fixture
def fake():
    """Return a log of `SIZE` entries."""
    return FakeLog("Asked", SIZE, protocols=["static-ct"], days=0.5)


@pytest.fixture
def log(fake, serve):
    """Return the log, opened."""
    with ctkit.open_log(serve(fake), user_agent="t@example.org", protocol="static-ct", key=fake.public_key) as log:
        fake.requests.clear()
        yield log


@pytest.mark.parametrize("what", HARMLESS)
def test_cycle_when_what_tables_demand_is_harmless(tmp_path, log, what):
    """What we do anyway, and what is not used, is in no verb's way: for main and staging alike."""
    run_cycle(log, tmp_path / "main", tmp_path / "staging", lambda path: demand(path, **HARMLESS[what]))


def tables_of(tmp_path):
    """Create a main table and a staging table, with one row in common."""
    make_table(tmp_path / "main", make_rows([1, 2]))
    make_table(tmp_path / "staging", make_rows([2, 3]))


@pytest.mark.parametrize("feature", [name for name, (verb, _) in REFUSED.items() if verb != "remove"])
def test_main_that_demands_of_writers_what_we_do_not_do(tmp_path, fake, log, feature):
    """Such a main is read, but neither merged nor backfilled into: no entry is asked for, and nothing is written."""
    tables_of(tmp_path)
    demand(tmp_path / "main", **REFUSED[feature][1])
    before = everything_in(tmp_path)
    table, staging = ctkit.open_table(tmp_path / "main"), ctkit.open_table(tmp_path / "staging")
    gaps = ctkit.find_gaps(table, within={log.url: (0, 5)})

    for verb in (
        lambda: ctkit.preview_merge(staging, table),
        lambda: ctkit.merge_staging(staging, table),
        lambda: ctkit.backfill([log], gaps, table),
    ):
        with pytest.raises(SchemaMismatchError) as caught:
            verb()
        assert (caught.value.uri, caught.value.features) == (str(tmp_path / "main"), (feature,))

    assert everything_in(tmp_path) == before
    assert fake.requests == []
    assert indices_of(table) == [1, 2]


@pytest.mark.parametrize("feature", [name for name, (verb, _) in REFUSED.items() if verb != "append"])
def test_staging_that_cannot_be_emptied(tmp_path, feature):
    """No row of it gets into main, because it could not be taken out of staging afterwards."""
    tables_of(tmp_path)
    demand(tmp_path / "staging", **REFUSED[feature][1])
    before = everything_in(tmp_path)
    table, staging = ctkit.open_table(tmp_path / "main"), ctkit.open_table(tmp_path / "staging")

    for verb in (
        lambda: ctkit.preview_merge(staging, table),
        lambda: ctkit.preview_merge(staging, None),
        lambda: ctkit.merge_staging(staging, table),
        lambda: merge_staged(ctkit.Parameters(main_path=f"{tmp_path}/new", staging_path=f"{tmp_path}/staging")),
    ):
        with pytest.raises(SchemaMismatchError) as caught:
            verb()
        assert (caught.value.uri, caught.value.features) == (str(tmp_path / "staging"), (feature,))

    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("indices", [[2, 3], [1, 3]])
def test_merge_when_main_rules_out_nulls_in_lists(tmp_path, indices):
    """What main promises holds after a merge, too, whether a staged file is linked or rewritten."""
    make_table(tmp_path / "main", make_rows([1]))
    rows = make_rows([2, 3])
    values = [["a.example.com"], ["b.example.com", None]]
    rows = rows.set_column(17, rows.schema.field("all_domains"), pa.array(values, rows.schema.field(17).type))
    make_table(tmp_path / "staging", pa.concat_tables([rows, make_rows(set(indices) - {2, 3})]))
    demand(tmp_path / "main", versions=(1, 2), schema=no_nulls_in_lists)
    before = everything_in(tmp_path)

    with pytest.raises(TableError, match="all_domains"):
        ctkit.merge_staging(ctkit.open_table(tmp_path / "staging"), ctkit.open_table(tmp_path / "main"))

    assert everything_in(tmp_path) == before


def test_undo_when_main_has_become_append_only(tmp_path):
    """Rows of an append-only table stay in it."""
    tables_of(tmp_path)
    ctkit.open_table(tmp_path / "main").alter.set_table_properties({"delta.appendOnly": "true"})
    ctkit.merge_staging(ctkit.open_table(tmp_path / "staging"), ctkit.open_table(tmp_path / "main"))
    before = everything_in(tmp_path)

    with pytest.raises(SchemaMismatchError) as caught:
        ctkit.undo_merge(ctkit.open_table(tmp_path / "main"))

    assert caught.value.features == ("appendOnly",)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("feature", UNREADABLE)
def test_find_table_when_its_files_do_not_tell_its_rows(tmp_path, feature):
    """A table whose rows are not simply those of its files is opened for no verb."""
    ctkit.open_table(tmp_path / "main")
    demand(tmp_path / "main", **UNREADABLE[feature])

    for look in (ctkit.find_table, ctkit.open_table):
        with pytest.raises(SchemaMismatchError) as caught:
            look(tmp_path / "main")
        assert caught.value.features == (feature,)


@pytest.mark.parametrize("source", ["commit", "checkpoint"])
@pytest.mark.parametrize("feature", ["catalogManaged", "someFutureFeature"])
def test_find_table_when_deltalake_cannot_read_it(tmp_path, feature, source):
    """What deltalake refuses is the same error of ours, which names the feature."""
    make_table(tmp_path / "main", make_rows([1, 2]))
    demand(tmp_path / "main", versions=(3, 7), readers=["v2Checkpoint" if source == "checkpoint" else feature])
    if source == "checkpoint":
        log = tmp_path / "main" / "_delta_log"
        ctkit.find_table(tmp_path / "main").create_checkpoint()
        for commit in log.glob("*.json"):
            commit.unlink()
        (checkpoint,) = log.glob("*.checkpoint.parquet")
        rows = pq.read_table(checkpoint).to_pylist()
        for row in rows:
            if row["protocol"]:
                row["protocol"]["readerFeatures"] = row["protocol"]["writerFeatures"] = [feature]
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(checkpoint)), checkpoint)

    with pytest.raises(SchemaMismatchError) as caught:
        ctkit.find_table(tmp_path / "main")
    assert caught.value.features == (feature,)


@pytest.mark.parametrize("damage", ["no JSON", '{"protocol": 5}', '{"protocol": {"readerFeatures": [[5]]}}', "[]"])
def test_find_table_when_its_log_is_damaged(tmp_path, damage):
    """Where no feature is the reason, it is another error."""
    make_table(tmp_path / "main", make_rows([1]))
    (tmp_path / "main" / "_delta_log" / f"{2:020}.json").write_text(damage)

    with pytest.raises(TableError):
        ctkit.find_table(tmp_path / "main")


def test_a_table_that_was_opened_by_deltalake_is_checked(tmp_path):
    """Each function that takes a table looks at what it demands, whoever has opened it."""
    good = make_table(tmp_path / "good", make_rows([1]))
    make_table(tmp_path / "bad", make_rows([2]))
    demand(tmp_path / "bad", **UNREADABLE["deletionVectors"])
    bad, gaps = DeltaTable(tmp_path / "bad"), GAP_SCHEMA.empty_table()
    calls = [
        lambda: ctkit.find_gaps(bad, within={LOG: (0, 5)}),
        lambda: ctkit.find_gaps(good, bad, within={LOG: (0, 5)}),
        lambda: ctkit.audit([], bad),
        lambda: ctkit.backfill([], gaps, bad),
        lambda: ctkit.backfill([], gaps, good, main=bad),
        lambda: ctkit.preview_merge(bad, good),
        lambda: ctkit.preview_merge(good, bad),
        lambda: ctkit.merge_staging(bad, good),
        lambda: ctkit.merge_staging(good, bad),
        lambda: ctkit.undo_merge(bad),
        lambda: ctkit.repair(bad),
        lambda: ctkit.open_table(tmp_path / "new", like=bad),
    ]
    for call in calls:
        with pytest.raises(SchemaMismatchError) as caught:
            call()
        assert caught.value.features == ("deletionVectors",)
    assert not (tmp_path / "new").exists()


def test_find_table_when_a_file_has_a_deletion_vector(tmp_path):
    """Vectors that are there count, also when the property is off; without any the table is read."""
    make_table(tmp_path / "main", make_rows([1, 2]))
    demand(tmp_path / "main", versions=(3, 7), readers=["deletionVectors"])
    assert indices_of(ctkit.find_table(tmp_path / "main")) == [1, 2]
    commit = tmp_path / "main" / "_delta_log" / f"{1:020}.json"
    actions = [json.loads(line) for line in commit.read_text().splitlines()]
    vector = {"storageType": "i", "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"}
    for action in actions:
        if "add" in action:
            action["add"]["deletionVector"] = vector | {"sizeInBytes": 40, "cardinality": 6}
    commit.write_text("".join(json.dumps(action) + "\n" for action in actions))

    with pytest.raises(SchemaMismatchError) as caught:
        ctkit.find_table(tmp_path / "main")

    assert caught.value.features == ("deletionVectors",)


def test_merge_when_main_is_given_a_constraint_meanwhile(tmp_path, monkeypatch):
    """What main demands is looked at again when somebody has committed to it."""
    tables_of(tmp_path)

    def interfere():
        monkeypatch.undo()
        DeltaTable(tmp_path / "main").alter.add_constraint({"low": "cert_index < 3"})

    before_commit(monkeypatch, interfere)

    with pytest.raises(SchemaMismatchError) as caught:
        ctkit.merge_staging(ctkit.open_table(tmp_path / "staging"), ctkit.open_table(tmp_path / "main"))

    assert caught.value.features == ("checkConstraints",)
    assert indices_of(ctkit.open_table(tmp_path / "main")) == [1, 2]
    assert indices_of(ctkit.open_table(tmp_path / "staging")) == [2, 3]
    assert len(list((tmp_path / "main").rglob("*.parquet"))) == 1


@pytest.fixture
def parameters(tmp_path, log):
    """Return what a backfill into main needs, as it stands in a parameter file."""
    return {
        "main_path": str(tmp_path / "main"),
        "logs": [{"url": log.url}],
        "from_index": 0,
        "ceiling": "log",
        "user_agent": "t@example.org",
    }


CONSTRAINT = {"versions": (1, 3), "properties": {"delta.constraints.old": "cert_index > 9"}}


@pytest.mark.parametrize("words", [["backfill"], ["backfill", "--dry-run"]])
def test_command_when_main_cannot_take_what_it_would_fetch(tmp_path, fake, parameters, words):
    """It fails before any log is asked for anything."""
    tables_of(tmp_path)
    demand(tmp_path / "main", **CONSTRAINT)
    (tmp_path / "ct.yaml").write_text(json.dumps(parameters))

    assert main([*words, "-f", str(tmp_path / "ct.yaml")]) == 1
    assert fake.requests == []


def test_report_gaps_when_staging_cannot_take_what_is_missing(tmp_path, fake, parameters):
    """The table that would be written to is the one that counts."""
    tables_of(tmp_path)
    demand(tmp_path / "staging", **CONSTRAINT)
    parameters = ctkit.Parameters(**parameters, staging_path=str(tmp_path / "staging"))

    with fails(SchemaMismatchError, uri=tmp_path / "staging"):
        report_gaps(parameters, verb="append")

    assert fake.requests == []
    report_gaps(parameters).close()


def test_report_gaps_when_main_cannot_take_what_will_be_staged(tmp_path, parameters, caplog):
    """Rows can be staged all the same; that they cannot be merged then is said before they are fetched."""
    tables_of(tmp_path)
    demand(tmp_path / "main", **CONSTRAINT)

    report_gaps(ctkit.Parameters(**parameters, staging_path=str(tmp_path / "staging")), verb="append").close()

    assert "checkConstraints" in caplog.text


def test_find_table_when_only_deltalake_knows_what_readers_must_know(tmp_path, monkeypatch):
    """What a later deltalake can read, we cannot until somebody has thought about it."""
    make_table(tmp_path / "main", make_rows([1]))
    demand(tmp_path / "main", versions=(3, 7), readers=["timestampNtz"])
    monkeypatch.delitem(FEATURES, "timestampNtz")

    with pytest.raises(SchemaMismatchError) as caught:
        ctkit.find_table(tmp_path / "main")

    assert caught.value.features == ("timestampNtz",)


LISTED = sorted({*FEATURES, "someFutureFeature", "icebergWriterCompatV1"} - {"catalogManaged", "catalogOwned-preview"})
FOR_READERS = {
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "variantShredding",
    "variantShredding-preview",
    "variantType",
    "variantType-preview",
}


@pytest.mark.parametrize("name", LISTED)
def test_features_that_deltalake_commits_to(tmp_path, name):
    """A table that only lists a feature is refused wherever deltalake would not commit, after all had been fetched."""
    make_table(tmp_path / "main", make_rows([1]))
    if name in FOR_READERS:
        demand(tmp_path / "main", versions=(3, 7), readers=[name])
    else:
        demand(tmp_path / "main", writers=[name])
    table = ctkit.find_table(tmp_path / "main")
    (file,) = pa.table(table.get_add_actions())["path"].to_pylist()
    day = {"seen_date": "2026-03-01"}
    actions = {
        "append": AddAction("seen_date=2026-03-01/part-new.parquet", 1, day, 0, True, "{}"),
        "remove": RemoveAction(file, True, 0, 1, day),
    }

    for verb, action in actions.items():
        refused = refused_features(table, verb)
        if refused:
            assert list(refused) == [name]
            continue
        table.create_write_transaction([action], "append", table.schema(), ["seen_date"])
        table.update_incremental()
