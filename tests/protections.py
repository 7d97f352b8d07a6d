"""The protections that ``tests/mutants.py`` switches off one by one: a change of one file, and who has to notice it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTANTS", "Mutant"]

PACKAGE = "airflow_provider_modelstudio/inference"
ENGINE_ROOM = f"{PACKAGE}/engine/__init__.py"
SENDER = f"{PACKAGE}/engine/sender.py"
WRITER = f"{PACKAGE}/engine/writer.py"
WINDOWS = f"{PACKAGE}/engine/windows.py"
APART = f"{PACKAGE}/engine/apart.py"
LEASE = f"{PACKAGE}/vault/lease.py"
JOURNAL = f"{PACKAGE}/vault/journal.py"
METER = f"{PACKAGE}/vault/meter.py"
VAULT = f"{PACKAGE}/vault/__init__.py"
PUBLICATION = f"{PACKAGE}/vault/publication.py"
RECALL = f"{PACKAGE}/survey/recall.py"
SURVEY = f"{PACKAGE}/survey/__init__.py"
LOCAL = f"{PACKAGE}/storage/local.py"
LOG = f"{PACKAGE}/storage/log.py"
POSIX = f"{PACKAGE}/storage/posix.py"
READING = f"{PACKAGE}/dataset/__init__.py"
DISK = f"{PACKAGE}/disk.py"
OBJECTS = f"{PACKAGE}/storage/object_storage.py"
GOVERNOR_ROOM = f"{PACKAGE}/governor/__init__.py"
TRANSPORT = f"{PACKAGE}/transport/__init__.py"
NODE = f"{PACKAGE}/transport/node.py"
HTTP = f"{PACKAGE}/transport/http1.py"
CONNECTING = f"{PACKAGE}/transport/connecting.py"
REFUSAL = f"{PACKAGE}/transport/refusal.py"
RULES = f"{PACKAGE}/decide/rules.py"
TASKS = f"{PACKAGE}/tasks"
MULTI_MODAL = f"{TASKS}/multi_modal_embedding.py"
ADDRESS = f"{PACKAGE}/transport/address.py"
RECORDS = f"{PACKAGE}/vault/records.py"
CLIENT = "airflow_provider_modelstudio/hooks/client.py"
HOOK = "airflow_provider_modelstudio/hooks/modelstudio.py"
DATASET = "airflow_provider_modelstudio/operators/dataset.py"
MULTI_MODAL_OPERATOR = "airflow_provider_modelstudio/operators/multi_modal_embedding.py"
FIELDS = "airflow_provider_modelstudio/hooks/fields.py"
PROVISIONS = "airflow_provider_modelstudio/operators/provisioning.py"
LOCATIONS = "airflow_provider_modelstudio/operators/locations.py"
ROTATION = "airflow_provider_modelstudio/operators/rotation.py"

HISTORIES = ("tests/simulation/test_histories.py",)
CUTS = ("tests/powercut/test_power_cuts.py",)
ENGINE = ("tests/inference/test_engine.py",)
LEASES = ("tests/inference/test_lease.py",)
QUARANTINE = ("tests/inference/test_quarantine.py",)
VAULTS = ("tests/inference/test_vault.py",)
ADOPTION = ("tests/inference/test_adoption.py",)
STORAGE = ("tests/inference/test_storage.py",)
PUBLISHING = ("tests/chaos/test_publication.py",)
STORES = ("tests/faults/test_stores.py",)
REFUSALS = ("tests/faults/test_refusals.py",)
LARGE = ("tests/inference/test_large_cells.py",)
FENCE = ("tests/airflow/test_fence.py",)
PROCESSES = ("tests/faults/test_processes.py",)
PLACES = ("tests/faults/test_places.py",)
DAMAGE = ("tests/faults/test_damage.py",)
CANARIES = ("tests/security/test_canaries.py",)
PROVISION_CANARIES = ("tests/security/test_provisioning_canaries.py",)
STORE_CANARIES = ("tests/security/test_store_canaries.py",)
STATE = ("tests/security/test_state.py",)
GOVERNOR = ("tests/governor/test_governor.py",)
OPERATORS = ("tests/operators/test_inference.py",)
LIMITS = ("tests/operators/test_limits.py",)
FLAT_OPERATOR = ("tests/operators/test_flat_rerank.py",)
PROVISIONING = ("tests/operators/test_model.py",)
ANSWERS = ("tests/transport/test_answers.py",)
VECTORS = ("tests/tasks/test_vectors.py",)
UNFIT = ("tests/inference/test_unfit.py",)
FLAT = ("tests/inference/test_flat.py",)
GROUPS = ("tests/inference/test_groups.py",)
SIZES = ("tests/test_size.py",)
JOURNALS = ("tests/inference/test_journal.py",)
PACES = ("tests/inference/test_pace.py",)
STOPPING = ("tests/inference/test_stopping.py",)
ADDRESSES = ("tests/transport/test_address.py", "tests/security/test_addresses.py")
TLS = ("tests/transport/test_tls.py",)
FAILURES = ("tests/transport/test_failures.py",)
ONE_ANSWER = ("tests/transport/test_http1.py",)
CONNECTIONS = ("tests/transport/test_connections.py",)
HOOKS = ("tests/hooks/test_modelstudio.py",)
PROXY = ("tests/hooks/test_proxy.py",)
COMMIT = ("tests/security/test_state.py::test_no_byte_of_the_commit_becomes_a_wrong_row_or_a_crash",)
PARENTS = ("tests/security/test_state.py::test_a_parent_that_all_may_write_to_is_warned_of",)
STOPPED = (
    "tests/faults/test_processes.py::test_asked_to_stop_a_task_keeps_the_answers_in_flight",
    "tests/faults/test_processes.py::test_asked_to_stop_a_task_does_not_wait_for_answers_that_take_long",
    "tests/inference/test_engine.py::test_a_run_that_ends_by_itself_waits_for_what_it_has_paid_for",
)
KILLED = ("tests/faults/test_processes.py::test_killed_a_task_pays_again_for_no_more_than_was_in_flight",)
SOURCES = ("tests/inference/test_sources.py",)
WAKING = ("tests/inference/test_waking.py",)


@dataclass(frozen=True)
class Mutant:
    """A protection that is switched off."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    # Who may spend.
    Mutant(
        "the permit is given back before the answer is durable",
        SENDER,
        "                    await self._keep(batch, decoded)\n",
        "                    self.governor.released(self._loop.time(), permit)\n"
        "                    await self._keep(batch, decoded)\n",
        HISTORIES,
    ),
    Mutant(
        "an attempt does not wait for earlier ones",
        LEASE,
        "for epoch in await self._epochs() if epoch < self.epoch}",
        "for epoch in []}",
        HISTORIES,
    ),
    Mutant("the lease is not checked before sending", SENDER, "        self._lease.check()\n", "", HISTORIES),
    Mutant(
        "two attempts claim one epoch",
        LEASE,
        'f"{number:08d}-{self._attempt}"',
        'f"{number:08d}-"',
        LEASES,
    ),
    Mutant("a newer try is not noticed", LEASE, "self._replaced = True", "pass", (*LEASES, *PROCESSES)),
    Mutant("a lease that ran out is renewed", LEASE, "            self._passed = True", "            pass", LEASES),
    Mutant("who woke up goes on to spend", SENDER, "        self._lease.check()\n", "", (*ENGINE, *LEASES, *PROCESSES)),
    Mutant("who is replaced forgets what is in flight", ENGINE_ROOM, "            await sender.drain(stopped)\n            raise", "            if not isinstance(error, SupersededError):\n                await sender.drain(stopped)\n            raise", PROCESSES),
    Mutant("another task is thrown out", LEASE, 'return bool(claim["owner"] == self._owner)', "return True", LEASES),
    Mutant(
        "a run that waits hears nothing",
        ENGINE_ROOM,
        "await _unless_stopped(lease.acquire(), stop)",
        "await lease.acquire()",
        LEASES,
    ),
    Mutant("Airflow is not asked before the commit", ENGINE_ROOM, "        await _unless_stopped(self._ask_airflow(), stop)\n", "", ENGINE),
    Mutant(
        "Airflow's word is not understood",
        "airflow_provider_modelstudio/operators/state_store.py",
        "        if status in _GIVEN_UP:",
        "        if False:",
        FENCE,
    ),
    Mutant("whom nobody vouches for commits", "airflow_provider_modelstudio/operators/state_store.py", "        if status is None or status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:", "        if False:", (*FENCE, *REFUSALS)),
    Mutant("a value that Airflow does not take keeps everybody from the commit", "airflow_provider_modelstudio/operators/state_store.py", "        if status is None or status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:", "        if True:", FENCE),
    Mutant("Airflow is asked once, whatever it says", ENGINE_ROOM, "                if pause is None:\n                    raise\n", "                raise\n", (*ENGINE, *REFUSALS)),
    Mutant("a stop is not heard while Airflow is asked", ENGINE_ROOM, "await _unless_stopped(self._ask_airflow(), stop)", "await self._ask_airflow()", ENGINE),
    Mutant("progress that cannot be told ends the run", "airflow_provider_modelstudio/operators/state_store.py", "    except Exception:\n", "    except RuntimeError:\n", FENCE),
    Mutant("what one task was served counts for another", "airflow_provider_modelstudio/inference/vault/errands.py", 'f"{_folder(plan)}/{errand}"', 'f"{_folder(plan)}/any"', OPERATORS),
    Mutant("a served run is believed unseen", ENGINE_ROOM, "    if manifest is None or not await vault.publication.shows(manifest):\n        return None", "    if manifest is None:\n        return None", OPERATORS),
    # What is durable.
    Mutant(
        "the own bytes are not recognised after a lost answer",
        OBJECTS,
        "            if await self.read(key) != content:\n                raise",
        "            raise",
        STORES,
    ),
    Mutant(
        "parts are not named by their content",
        VAULT,
        'f"part-{part.index:05d}-{sha256[:16]}.parquet"',
        'f"part-{part.index:05d}.parquet"',
        HISTORIES,
    ),
    Mutant(
        "a part is sealed before it is stored",
        VAULT,
        "        await self.storage.create_from(key, file.path)\n        await self.storage.create_from(keys_key",
        "        asyncio.get_running_loop().call_later(5.0, lambda: asyncio.ensure_future(self.storage.create_from(key, file.path)))\n"
        "        await self.storage.create_from(keys_key",
        HISTORIES,
    ),
    Mutant(
        "a committed dataset is replaced",
        VAULT,
        "await self.storage.create(self.manifest_key, manifest.as_json())",
        "await self.storage.replace(self.manifest_key, manifest.as_json())",
        VAULTS,
    ),
    Mutant("the books of a dataset are not checked", VAULT, "if manifest.counts.rows != self.plan.rows or ", "if ", VAULTS),
    Mutant("the books of a part are not checked", VAULT, "if not counts.rows == part.rows == written or", "if False and", VAULTS),
    Mutant("what lost a race stays", VAULT, "await self.storage.delete(*strays)", "pass", VAULTS),
    Mutant(
        "with several writers an append is acknowledged before its own segment is durable",
        JOURNAL,
        "                try:\n                    await self._write_segment(",
        "                for _, done in batch if len(self._flushing) > 1 else []:\n"
        "                    done.set_result(None)\n"
        "                try:\n                    await self._write_segment(",
        JOURNALS,
    ),
    Mutant("an append outlives its writers", JOURNAL, "self._flushing = {task for task in self._flushing if task is not me}", "asyncio.get_running_loop().call_soon(self._flushing.discard, me)", JOURNALS),
    Mutant("a segment goes while a part waits for it", JOURNAL, "if not parts]", "if True]", JOURNALS),
    Mutant("a damaged segment is believed", JOURNAL, "zlib.crc32(body) != checksum", "False", ENGINE),
    Mutant("the journal is not read", RECALL, "for key in segments:", "for key in []:", ENGINE),
    Mutant("a reason leaves the journal with its part", JOURNAL, "plain = [record for record in records if not record.has_reasons]", "plain, records = records, []", (*ENGINE, *JOURNALS)),
    Mutant("a log of the journal never ends", JOURNAL, "if self._log_size >= self._log_bytes:", "if False:", JOURNALS),
    Mutant("a log of the journal goes on after an error", JOURNAL, "        except BaseException:\n            self._log = None\n", "        except ZeroDivisionError:\n            self._log = None\n", JOURNALS),
    Mutant("an answer is lost with a log that somebody removed", JOURNAL, "            except ObjectMissingError:\n", "            except ZeroDivisionError:\n", JOURNALS),
    Mutant("a log waits for its last answer only", JOURNAL, "self._waiting_for[self._log_key] |= parts", "self._waiting_for[self._log_key] = parts", JOURNALS),
    Mutant("a log goes while it is written", JOURNAL, "        if self._log_key in done:\n            self._log = None\n        await self._storage.delete(*done)\n", "        await self._storage.delete(*done)\n", JOURNALS),
    Mutant("a commit drops what one that woke up has kept", JOURNAL, "await self._storage.delete_unless_grown(key, self._read[key])", "await self._storage.delete(key)", JOURNALS),
    Mutant("a log that has grown is removed", LOCAL, "            if path.lstat().st_size <= size:\n", "            if True:\n", (*STORAGE, *WAKING)),
    Mutant("damage to one segment ends the reading", JOURNAL, "at = len(content) if following < 0 else following", "at = len(content)", JOURNALS),
    Mutant("a segment that is cut is called damaged", JOURNAL, "cut = following < 0 and (end > len(content) or not any(content[at:]))", "cut = False", (*JOURNALS, *ENGINE)),
    Mutant("damage to the last segment is called a cut", JOURNAL, "cut = following < 0 and (end > len(content) or not any(content[at:]))", "cut = following < 0", JOURNALS),
    Mutant(
        "a commit drops what others paid for",
        ENGINE_ROOM,
        "[one for one in segments if one in seen or vault.journal.wrote(one)]",
        "segments",
        ENGINE,
    ),
    Mutant("an answer of this run goes to two rows", RECALL, "part not in used_up", "True", ENGINE),
    Mutant("an answer of an earlier run goes to two rows", SURVEY, '~np.isin(-2 - known["at"], taken)', 'known["at"] >= 0', ENGINE),
    Mutant("equal rows are asked each", SURVEY, "_match_shared if share else", "_match_shared if False else", ENGINE),
    Mutant("a part of a changed file is taken over", f"{PACKAGE}/plan.py", "pieces.append((file.path, file.size, file.stamp, ", "pieces.append((file.path, file.size, ", ADOPTION),
    Mutant("a missing part is counted on", RECALL, "if seal.key not in there:", "if False:", ADOPTION),
    Mutant("missing keys of a part end the run", RECALL, "        except ObjectMissingError:\n            self.missing", "        except ZeroDivisionError:\n            self.missing", ADOPTION),
    Mutant("a part with failed rows is taken over", VAULT, "if seal.digest and not seal.counts.failed", "if seal.digest", ADOPTION),
    # The disk and the stores.
    Mutant("an object is not synced", LOCAL, "                self._disk.write(descriptor, content)\n                self._disk.sync(descriptor)\n", "                self._disk.write(descriptor, content)\n", CUTS),
    Mutant("a log is not synced", LOG, "                    self._disk.sync(descriptor)\n", "", CUTS),
    Mutant("the name of a log is not synced", LOCAL, '                raise ObjectExistsError(f"{path} exists already") from error\n            self._sync(path.parent)\n', '                raise ObjectExistsError(f"{path} exists already") from error\n', CUTS),
    Mutant("a log that is gone is written on", LOG, "                self._path.lstat()\n", "", STORAGE),
    Mutant("a log that another machine removed is taken for a broken disk", LOG, "(error.errno == errno.ESTALE and self._is_gone())", "(error.errno == errno.ENOEXEC)", STORAGE),
    Mutant("a log that is refused stays open", LOG, "                    self._disk.close(descriptor)\n", "                    pass\n", STORAGE),
    Mutant("what a system takes in part is taken for the whole", POSIX, "pieces[0] = pieces[0][written:]", "pieces.pop(0)", STORAGE),
    Mutant("a part is not synced", LOCAL, "            self._sync(source)\n", "", CUTS),
    Mutant("a new name is not synced", LOCAL, "            self._disk.unlink(temporary)\n            self._sync(path.parent)", "            self._disk.unlink(temporary)", CUTS),
    Mutant("a folder is published before it is synced", LOCAL, "            self._sync(stage)\n", "", CUTS),
    Mutant("a new folder is not synced", LOCAL, "            self._sync(folder.parent)\n", "            pass\n", CUTS),
    Mutant("two creators of one object both win", LOCAL, "            self._disk.link(temporary, path)\n        except", "            self._disk.rename(temporary, path)\n            temporary.touch()\n        except", STORAGE),
    Mutant("keys may leave the state folder", LOCAL, 'if key.startswith("/") or any(part in {"", ".", ".."} for part in parts):', "if False:", STORAGE),
    Mutant("a store that overwrites is believed", OBJECTS, "self._creates = await self._probe()", "self._creates = True", STORES),
    Mutant("what is there is not looked at", OBJECTS, '            if await self.read(key) != content:\n                raise ObjectExistsError(f"{key} exists already")\n            return\n', "            pass\n", STORES),
    Mutant("a full disk is tried again and again", DISK, '            return StorageRefusedError(f"no space left in {place} for {path}, ', '            return StorageError(f"no space left in {place} for {path}, ', (*PLACES, *STORAGE)),
    Mutant("a closed disk is tried again and again", DISK, "        case number if number in _CLOSED:\n", "        case number if number in ():\n", (*PLACES, *STORAGE)),
    Mutant("what did not fit lies around", LOCAL, "                with contextlib.suppress(OSError):  # a full disk has no room for what nobody will read\n                    self._disk.unlink(temporary)\n", "", (*PLACES, *STORAGE)),
    Mutant("a full disk of the worker is tried again and again", f"{PACKAGE}/engine/scratch.py", "if error.errno not in {errno.ENOSPC, errno.EDQUOT}:", "if True:", (*PLACES, "tests/inference/test_scratch.py")),
    Mutant("a store that refuses access is asked again", OBJECTS, "            return _refused(what)\n", "            return UnansweredError(what)\n", STORES),
    Mutant("large cells are decoded many at a time", READING, "            if 2 * fewer <= rows and at < group.num_rows:", "            if False:", LARGE),
    Mutant("rows are decoded twice where cells turn out large", READING, "            if at <= given:  # before we began anew\n                continue\n", "", LARGE),
    Mutant("what is not there weighs nothing", READING, "any(_is_fixed(field.type) for field in schema)", "False", LARGE),
    Mutant("a window is as large as what was decoded", READING, "> WINDOW_BYTES and piece.num_rows > 1:", "> WINDOW_BYTES and False:", LARGE),
    Mutant("a dictionary counts for each row", READING, "        return _own_bytes\n", '        return attrgetter("nbytes")\n', LARGE),
    Mutant("many rows are decoded before one is", READING, "    if group.total_byte_size > PROBE_BYTES:", "    if False:", PROCESSES),
    Mutant("a listing comes from a cache", OBJECTS, "        self._fs.invalidate_cache()\n        try:", "        try:", STORES),
    # What readers see.
    Mutant("files of somebody else are overwritten", PUBLICATION, "        if strangers:", "        if False:", ENGINE),
    Mutant("a publication leaves no word", PUBLICATION, 'strangers -= set((await self._order(key))["files"])', "pass", PUBLISHING),
    Mutant("one that wakes up shows an older version", PUBLICATION, "while (newest := (await self._orders())[-1]) != done:", "while (newest := mine) != done:", PUBLISHING),
    Mutant("an attempt comes before one that published", LEASE, "seen = [*await self._epochs(), *await self._names(ORDERS)]", "seen = await self._epochs()", WAKING),
    Mutant("one that wakes up leaves a record of nothing", PUBLICATION, "                if newest == (await self._orders())[-1]:\n                    raise\n", "                raise\n", PUBLISHING),
    Mutant("a run that waited shows what is older", ENGINE_ROOM, "                await self._check_source(stop)\n            lease.check()", "                pass\n            lease.check()", WAKING),
    Mutant("a commit without parts is believed", ENGINE_ROOM, "            if manifest is None or not await self._vault.can_show(manifest):\n", "            if manifest is None:\n", WAKING),
    Mutant("a seal without its part is believed", VAULT, "if run_key is not None or seal.key in there}", "if True}", ("tests/inference/test_vault.py",)),
    Mutant("a seal without its part stays", VAULT, "            if first.key not in await self.parts_there(self.plan.run_key):  # see :meth:`can_show`\n", "            if False:\n", ("tests/inference/test_vault.py",)),
    Mutant("one that wakes up goes on removing", VAULT, "                lease.check()  # what was listed is older then; one that was frozen may have found what is newer\n", "", (*WAKING, "tests/inference/test_vault.py")),
    Mutant("a commit drops what came meanwhile", ENGINE_ROOM, "[one for one in segments if one in seen or vault.journal.wrote(one)]", "[one for one in segments if one not in known.foreign]", WAKING),
    Mutant("a mount of one user is refused", LOCAL, "{os.geteuid(), _ROOT_USER, mine.st_uid}", "{os.geteuid(), _ROOT_USER}", STORAGE),
    Mutant("the time of a machine is believed", LEASE, " if self._storage.has_clock else 0.0", "", LEASES),
    Mutant("a published file of another size stays", OBJECTS, "            if shown.get(name) != sizes[key]:", "            if name not in shown:", STORAGE),
    Mutant("a credential that ran out stops the task", OBJECTS, "        case OSError() if _code_of(error) in _PASSING:", "        case OSError() if False:", STORES),
    Mutant("a commit without parts stays", VAULT, "            if first is not None and await self.can_show(first):\n", "            if first is not None:\n", ("tests/inference/test_vault.py",)),
    Mutant("files that the record names go", OBJECTS, "set(shown) - set(files) - await self._named()", "set(shown) - set(files)", PUBLISHING),
    Mutant("a dead try's rows stay in the quarantine", VAULT, "(key for key in found if key not in named)", "()", QUARANTINE),
    Mutant("keys of rows in quarantine stay among those of the part", WRITER, "kept.tobytes()", "window.keys.tobytes()", QUARANTINE),
    Mutant("large answers pile up behind a slow one", f"{PACKAGE}/engine/feeder.py", "    if row_bytes > 0:", "    if False:", PACES),
    Mutant("nobody weighs answers", WINDOWS, "self._weigh(len(batch.asked), decoded.columns.get_total_buffer_size())", "pass", PACES),
    Mutant("a stop waits for a slow source", f"{PACKAGE}/engine/feeder.py", "self._reader.shutdown(wait=False)", "self._reader.shutdown(wait=True)", STOPPING),
    Mutant("a finished part is opened in the loop", RECALL, "await asyncio.to_thread(PartReader, await vault.storage.open(seal.key), seal.columns)", "PartReader(await vault.storage.open(seal.key), seal.columns)", STOPPING),
    Mutant("a finished part is read in the loop", RECALL, "await asyncio.get_running_loop().run_in_executor(self._thread, reader.group, group)", "reader.group(group)", STOPPING),
    Mutant("a survey hears no stop", SURVEY, "        if stopped():", "        if False:", STOPPING),
    Mutant("a survey that hangs is waited for", ENGINE_ROOM, "await _unless_stopped(looking, stop)", "await looking", STOPPING),
    Mutant("a source that changes is not noticed", ENGINE_ROOM, "await _unless_stopped(self._outwards(self._report, self._progress(sender)), stop)\n        await self._check_source(stop)\n", "await _unless_stopped(self._outwards(self._report, self._progress(sender)), stop)\n", PLACES),
    # Money.
    Mutant("a guard does not stop a run", SENDER, "        if refusal is not None:", "        if False:", LEASES),
    Mutant("a guard does not refuse a run", ENGINE_ROOM, "        if refusal is not None:", "        if False:", OPERATORS),
    Mutant("what may be in flight is not read", SENDER, "            self._windows.look_again()\n", "            pass\n", PACES),
    Mutant("all wait for the books", SENDER, "        if more and self._counting is None and not self._vault.meter.covers(self._with(batch, self._ahead)):\n", "        if False:\n", PACES),
    Mutant("books that cannot be counted ahead end the run", SENDER, "            counting.exception()  # whoever", "            self._broken = self._broken or counting.exception()  # whoever", PACES),
    Mutant("what looks like a segment ends every try", JOURNAL, "    except (pa.ArrowException, OSError, StopIteration):", "    except ZeroDivisionError:", JOURNALS),
    Mutant("requests of a killed try are forgotten", f"{PACKAGE}/budget.py", "self.requests <= other.requests and ", "", LEASES),
    Mutant("tokens of a killed try are forgotten", f"{PACKAGE}/budget.py", "self.tokens <= other.tokens and ", "", LEASES),
    Mutant("a paid request that brought nothing is not told", SENDER, "self.lost += isinstance(error, AnswerError) or error.maybe_billed", "self.lost += 0", ENGINE),
    Mutant(
        "an answer waits until it is counted",
        SENDER,
        "                self._answers += 1\n",
        "                self._answers += 1\n"
        "                if not self._vault.meter.covers(self.spent.plus(Spent(written=decoded.written))):\n"
        "                    await self._count_ahead(batch)\n"
        "                    await self._vault.meter.allow(Spent(10**9, 10**9, 10**9))\n",
        LEASES,
    ),
    Mutant("a run that ends forgets what is in flight", SENDER, "seconds = self._options.limits.timeout + _GRACE_SECONDS", "seconds = self._options.drain_seconds", ENGINE),
    Mutant("too many failed rows are accepted", WRITER, "if self._options.too_many(", "if False and self._options.too_many(", ENGINE),
    # Answers.
    Mutant("answers of another form are mixed in", WINDOWS, "        elif not columns.schema.equals(self.answer_schema):", "        elif False:", ENGINE),
    Mutant("an answer that is always cut is asked for as it was", RULES, "Split() if case.rows > 1 and case.attempts >= CUTS else _unless_alone(case)", "_unless_alone(case)", ("tests/inference/test_cut_answers.py",)),
    Mutant("rows are to blame before any answer was good", SENDER, "                if isinstance(error, AnswerError) and self._answered is None:", "                if False:", ("tests/inference/test_cut_answers.py",)),
    Mutant("an answer without a bottom is asked for again", RULES, "        lambda case: case.bottomless,", "        lambda case: False,", REFUSALS),
    Mutant("levels of an answer are not counted", f"{TASKS}/answers.py", "    if not _has_bottom(whole):", "    if False:", VECTORS),
    Mutant("what is no number is written", f"{TASKS}/vectors.py", "if np.count_nonzero(finite) == finite.size:", "if True:", VECTORS),
    Mutant("weights that are no numbers are written", f"{TASKS}/sparse_embedding.py", "if not np.isfinite(weights).all():", "if False:", ("tests/tasks/test_sparse_embedding.py",)),
    Mutant("scores that are no numbers are written", f"{TASKS}/rerank.py", "if not np.isfinite(values).all():", "if False:", ("tests/tasks/test_rerank.py",)),
    Mutant("a short list of weights is zipped", f"{TASKS}/sparse_embedding.py", "if len(rows) != len(questions):", "if False:", ("tests/tasks/test_sparse_embedding.py",)),
    Mutant("damaged pages of a source are read", f"{PACKAGE}/dataset/files.py", "page_checksum_verification=True", "page_checksum_verification=False", DAMAGE),
    Mutant("a source comes from an old listing", f"{PACKAGE}/dataset/files.py", "        filesystem.invalidate_cache()  # another task of this process may have listed it before a file came\n", "", SOURCES),
    Mutant("a file that was replaced is read", f"{PACKAGE}/dataset/__init__.py", "        self.check_unchanged()\n        names", "        names", SOURCES),
    Mutant("a file that is replaced while it is read is called damaged", f"{PACKAGE}/dataset/__init__.py", "            self.check_unchanged()  # a file that is replaced while it is read looks damaged\n", "", SOURCES),
    Mutant("the target of a link is not looked at", f"{PACKAGE}/dataset/files.py", 'if entry.get("islink"):', "if False:", SOURCES),
    Mutant("a store in trouble is taken for damage", f"{PACKAGE}/dataset/trouble.py", "and _raised_by_pyarrow(error)", "", SOURCES),
    Mutant("damaged pages of a part are read", f"{PACKAGE}/dataset/parts.py", "page_checksum_verification=True", "page_checksum_verification=False", ("tests/security/test_state.py",)),
    Mutant("keys that are alike by half are one", SURVEY, "    if bool(((group[1:] == group[:-1]) & (low[1:] != low[:-1])).any()):", "    if False:", ("tests/inference/test_survey.py",)),
    Mutant("pages are written without checksums", f"{PACKAGE}/dataset/parts.py", "write_page_checksum=True", "write_page_checksum=False", DAMAGE),
    Mutant(
        "a first answer that does not fit is not made durable",
        f"{PACKAGE}/engine/sender.py",
        "        await self._write_down(batch, decoded, [once_key(question.key) for question in batch.questions])\n",
        "",
        UNFIT,
    ),
    Mutant(
        "an answer with a reason is an answer",
        f"{PACKAGE}/engine/window.py",
        "        self.keys[position] = (0, 0)\n",
        "",
        UNFIT,
    ),
    Mutant(
        "a request that only means something as a whole is cut",
        f"{PACKAGE}/engine/sender.py",
        "rows = 1 if self._task.limits.whole else len(batch.questions)",
        "rows = len(batch.questions)",
        FLAT,
    ),
    Mutant(
        "a window ends in the middle of a query",
        f"{PACKAGE}/dataset/groups.py",
        "            if first + cut not in ends:",
        "            if False:",
        FLAT + GROUPS,
    ),
    Mutant(
        "float32 answers are asked again when they are wanted smaller",
        f"{PACKAGE}/survey/recall.py",
        "        if self._wider is not None:\n",
        "        if False:\n",
        ("tests/operators/test_vector_type.py",),
    ),
    Mutant(
        "smaller vectors pass for float32 ones",
        f"{PACKAGE}/tasks/text_embedding.py",
        'form = {} if self.vector_type == "float32" else {"vector_type": self.vector_type}',
        "form: dict[str, str] = {}",
        ("tests/operators/test_vector_type.py", "tests/tasks/test_vector_types.py"),
    ),
    Mutant(
        "weights are compared with digits that nobody writes",
        f"{TASKS}/sparse_embedding.py",
        "        tokens = dict(zip(tokens, _flat([tokens]).tolist(), strict=True))\n",
        "",
        ("tests/tasks/test_sparse_embedding.py",),
    ),
    Mutant("of two weights of a token the last is taken", f"{TASKS}/sparse_embedding.py", 'if answer.body.count(b":") == names', "if True", ("tests/tasks/test_sparse_embedding.py",)),
    Mutant("a broken image is taken for none", MULTI_MODAL, "(isinstance(cell, str) and cell.isspace())", "cell.isspace()", ("tests/tasks/test_multi_modal_embedding.py",)),
    # The model.
    Mutant("a model that does not fuse is paid on and on", MULTI_MODAL, "(reason := self._other_kind(answer, questions)) is not None", "False", OPERATORS),
    Mutant("several rows are paid before the first answer tells", MULTI_MODAL_OPERATOR, "start_concurrency=1", "start_concurrency=4", OPERATORS),
    Mutant("a text that no model takes is sent", DATASET, "return known.tokens_per_row if cut else known.tokens_per_row * MARGIN", "return None", LIMITS),
    Mutant("a text that fits is refused for its estimate", DATASET, "known.tokens_per_row * MARGIN", "known.tokens_per_row", LIMITS),
    Mutant("more images than the model takes are sent", MULTI_MODAL, "if self.max_images is not None and ", "if False and ", LIMITS),
    Mutant("a guard that cannot see what images cost is believed", MULTI_MODAL_OPERATOR, "        if blind and self._has_media:", "        if False:", OPERATORS),
    Mutant("images cost what their texts cost", MULTI_MODAL_OPERATOR, "        if not self._has_media:", "        if True:", OPERATORS),
    Mutant("a query beyond the tokens is sent", "airflow_provider_modelstudio/operators/rerank.py", "max_request_tokens=known.tokens_per_request if known is not None else None", "max_request_tokens=None", FLAT_OPERATOR),
    Mutant("a rotation forgets what was done", ROTATION, "return inference_id in self._have", "return False", PROVISIONING),
    Mutant("another key passes for the one that was sent", ROTATION, 'if kept.get("digest") == self._digest:', "if True:", PROVISIONING),
    Mutant("the signature of an address is shown", "airflow_provider_modelstudio/catalog/secrecy.py", 'r"|signature(', 'r"|signaturo(', ("tests/test_catalog.py",)),
    Mutant("half a character of a prompt reaches Arrow", "airflow_provider_modelstudio/decorators/inference.py", "    if (at := half_character(prompts)) is not None:", "    if False:", ("tests/decorators",)),
    Mutant("no name is taken for all", ADDRESS, "        if not isinstance(value, str):", "        if False:", ("tests/transport/test_address.py",)),
    # The service.
    Mutant("a size that is refused teaches nothing", SENDER, "        self._packer.most_size = self._size.most\n", "", ENGINE),
    Mutant("requests that wait are not cut to what was learned", SENDER, "for piece in waiting.fitting(most))", "for piece in [waiting])", ENGINE),
    Mutant("one large row makes all requests small", f"{PACKAGE}/decide/size.py", "return self.left == 0", "return True", ENGINE),
    Mutant("a limit is not looked for", f"{PACKAGE}/decide/size.py", "self.accepted + gap // 2 if", "self.refused - 1 if", SIZES),
    Mutant("a dead address is kept for a while", CONNECTING, "            self._looks.pop((host, port), None)", "            pass", FAILURES),
    Mutant("each connection looks a name up by itself", CONNECTING, "        look = self._looks.get((host, port))", "        look = None", FAILURES),
    Mutant("who stops waiting for a name stops the others", CONNECTING, "        await asyncio.wait([look])", "        await look", CONNECTIONS),
    Mutant("closing cancels who waits for a name", CONNECTING, "            raise ConnectionAbortedError", "            pass", CONNECTIONS),
    Mutant("a look that closing has cancelled is shared", CONNECTING, "        self._looks.clear()", "        pass", CONNECTIONS),
    Mutant("a question is sent after closing", NODE, "        if self._closings != closings:", "        if False:", CONNECTIONS),
    Mutant("a dead address is waited for", CONNECTING, "_NEXT_ADDRESS = 0.25", "_NEXT_ADDRESS = 60", FAILURES),
    Mutant("somebody else is taken for Elasticsearch", TRANSPORT, "        if not names_elasticsearch(answer.headers):", "        if False:", ANSWERS),
    Mutant("a row is quoted by a refusal", REFUSAL, "return scrub(reason, _asked(questions), run=_ECHO, shortest=_SHORTEST_TEXT) if questions else reason", "return reason", CANARIES),
    Mutant("half of a row is quoted", f"{PACKAGE}/decide/wording.py", "scrub(reason, texts)[:LONGEST_REASON]", "scrub(reason[:LONGEST_REASON], texts)", CANARIES),
    Mutant("rows that cannot be asked are found out one by one", ENGINE_ROOM, "if found.refused and options.too_many(", "if False and options.too_many(", ENGINE),
    Mutant("Airflow is told in the loop", ENGINE_ROOM, "await asyncio.get_running_loop().run_in_executor(self._outside, call, *told)", "call(*told)", STOPPING),
    Mutant("an answer of an earlier run goes into two rows by its journal", RECALL, "            wanted = pc.and_(wanted, pa.array(~np.isin(keys, used_up)))\n", "            pass\n", ENGINE),
    Mutant("a seal is believed to outlive a power cut", VAULT, "        if run_key is not None:\n            # A seal", "        if False:\n            # A seal", ("tests/security/test_state.py",)),
    Mutant(
        "parts are looked at before the journal",
        RECALL,
        """        segments = await self._vault.journal.segments()
        self.segments = frozenset(segments)
        sealed = await self._vault.seals()
""",
        """        sealed = await self._vault.seals()
        segments = await self._vault.journal.segments()
        self.segments = frozenset(segments)
""",
        ENGINE,
    ),
    Mutant("rows before the first answer stay in memory", WINDOWS, "                self._set_aside()\n", "                pass\n", ENGINE),
    Mutant("a short row is quoted in its reason", SENDER, "recorded(decision.reason, [str(q.value) for q in batch.questions])", "decision.reason", CANARIES),
    Mutant("an endpoint of other settings is asked unasked", DATASET, "            if looks[-1] != looks[0]:", "            if False:", REFUSALS),
    Mutant("the key of Model Studio is quoted when the server repeats it", FIELDS, "        hidden=account.secrets,\n", "", CANARIES),
    Mutant("the key of an own body is quoted before it is sent", PROVISIONS, "        hook.hide(own_body or {})\n", "", PROVISION_CANARIES),
    Mutant("what a store says is chained", OBJECTS, "        failed = _in_our_words(what, error)\n", "        raise _in_our_words(what, error) from error\n", STORE_CANARIES),
    Mutant("clients of stores log what a store says", LOCATIONS, "        _quiet_clients()\n", "", STORE_CANARIES),
    Mutant("a state folder that all may write to is believed", LOCAL, "        elif found.st_mode & stat.S_IWOTH:", "        elif False:", STATE),
    Mutant("a state folder of another user is believed", LOCAL, "        if found.st_uid not in {os.geteuid(), _ROOT_USER, mine.st_uid}:", "        if False:", STATE),
    Mutant("nobody is told of a parent that all may write to", LOCAL, "            self._warn_of_open_parents()\n", "            pass\n", PARENTS),
    Mutant("a sticky parent is warned of", LOCAL, " and not mode & stat.S_ISVTX", "", PARENTS),
    Mutant("a pipe is waited for", LOCAL, " | os.O_NONBLOCK)", ")", STATE),
    Mutant("a disk without links is taken for a closed one", f"{PACKAGE}/storage/posix.py", "            if error.errno not in _NO_LINKS:", "            if True:", STORAGE),
    Mutant("a name that is taken gets a copy", f"{PACKAGE}/storage/posix.py", "_renamed(aside, name, _RENAME_NOREPLACE)", "not self.rename(aside, name)", STORAGE),
    Mutant("state is listed through a link", LOCAL, '            if folder.is_symlink():\n                raise StorageError(f"{folder} is a symbolic link, and state is not read', '            if False:\n                raise StorageError(f"{folder} is a symbolic link, and state is not read', STORAGE),
    # The way there.
    Mutant("an address that only a trick would name is judged like any other", ADDRESS, "            if one.version == network.version and one in network:", "            if False:", ADDRESSES),
    Mutant("the host of a connection is not judged", ADDRESS, "    why = forbidden_address(host)\n", "    why = None\n", ADDRESSES),
    Mutant("what a name leads to is not judged", CONNECTING, "if why := forbidden_address(str(address[0])):", 'if why := "":', ADDRESSES),
    Mutant("what a name leads to is not judged by the client", CLIENT, "if why := forbidden_address(str(address[0])):", 'if why := "":', HOOKS),
    Mutant("the connected socket is not asked where it leads", CLIENT, "if why := forbidden_address(address):", 'if why := "":', HOOKS),
    Mutant("connections of the client are not guarded", CLIENT, 'self.pool.ConnectionCls = _GuardedHTTPS if config.scheme == "https" else _GuardedHTTP', "pass", HOOKS),
    Mutant("a certificate is not verified", CONNECTING, "    if not config.verify_tls:", "    if True:", TLS),
    Mutant("TLS of yesterday is spoken", CONNECTING, "context.minimum_version = ssl.TLSVersion.TLSv1_2", "context.minimum_version = ssl.TLSVersion.TLSv1", TLS),
    Mutant("a proxy of the environment is used unasked", FIELDS, 'extras.pop("trust_env", False)', 'extras.pop("trust_env", True)', PROXY),
    Mutant("an answer is read to its end, however long", HTTP, "        elif self._room < 0:", "        elif False:", FAILURES),
    Mutant("an answer that says how long it is, is read to its end", HTTP, "            self._room = -1", "            pass", ONE_ANSWER),
    Mutant("a compressed answer is unpacked in one piece", NODE, "unzip.decompress(answer.body, most_bytes + 1)", "unzip.decompress(answer.body)", ANSWERS),
    Mutant("a compressed answer that was cut is whole", NODE, " and not unzip.eof:", " and False:", ANSWERS),
    Mutant("an error loses its status where it was compressed badly", NODE, "        if answer.status >= HTTPStatus.BAD_REQUEST:", "        if False:", ANSWERS),
    Mutant("a call has no deadline", HTTP, "self._loop.call_at(by, self._late)", "self._loop.call_at(by + 3600, self._late)", (f"{FAILURES[0]}::test_one_deadline_over_the_whole_answer",)),
    Mutant("connecting has no limit of its own", CONNECTING, "asyncio.timeout(self._connect_timeout)", "asyncio.timeout(None)", CONNECTIONS),
    Mutant("time for the answer runs while connecting", NODE, "        connection = self._rested(loop.time()) or await self._connected()\n        # The server's clock starts as late as this: if ours started before, the server might not give up first.\n        by = loop.time() + deadline\n", "        by = loop.time() + deadline\n        connection = self._rested(loop.time()) or await self._connected()\n", CONNECTIONS),
    Mutant("an odd name is no failed connection", CONNECTING, "        except Exception as exc:", "        except KeyboardInterrupt as exc:", CONNECTIONS),
    Mutant("what keeps from connecting is quoted", CONNECTING, "            cause = None\n", "            cause = exc\n", CONNECTIONS),
    Mutant("a proxy without a port that can be read is taken", ADDRESS, "    if not readable or not re", "    if not re", ADDRESSES),
    Mutant("what lies unread is not seen before a connection is used", HTTP, "bool(self._unread.poll(0))", "False", CONNECTIONS),
    Mutant("a gateway that gave up without a word was never paid for", REFUSAL, "(told or waited)", "told", FAILURES),
    Mutant("a success in another form was never paid for", TRANSPORT, "maybe_billed=paid)", "maybe_billed=False)", ANSWERS),
    Mutant("a proxy is given and passed by", ADDRESS, '            if not self.url.startswith("https:"):', "            if False:", ADDRESSES),
    Mutant("headers may go on for ever", HTTP, "        if self._head_room < 0:", "        if False:", ONE_ANSWER),
    Mutant("what is no body may go on for ever", HTTP, "        elif self._silence > HEAD_BYTES:", "        elif False:", ONE_ANSWER),
    Mutant("what comes unasked is taken for an answer", HTTP, "        if self._waiter is None:\n            self.abort()\n            return\n", "        if self._waiter is None:\n            return\n", (*ONE_ANSWER, *CONNECTIONS)),
    Mutant("a connection that the server has closed is used", HTTP, "        self.closed = True\n        if self._waiter is None:", "        if self._waiter is None:", CONNECTIONS),
    Mutant("an answer behind an answer is kept for the next one", HTTP, "        self._surplus = self._whole", "        self._surplus = False", ONE_ANSWER),
    Mutant("an answer behind an answer is part of it", HTTP, "        if self._whole or not self._status:", "        if not self._status:", ONE_ANSWER),
    Mutant("the body of an interim answer is part of the answer", HTTP, "        if self._whole or not self._status:", "        if self._whole:", ONE_ANSWER),
    Mutant("a blank behind a name hides a header", HTTP, '"replace").strip().lower()', '"replace").lower()', ONE_ANSWER),
    Mutant("an interim answer that would close spoils the answer", HTTP, "        lenient_keep_alive=True,", "", ONE_ANSWER),
    Mutant("the rest of a question goes before the next one", HTTP, "self.transport.get_write_buffer_size() or ", "", ONE_ANSWER),
    Mutant("the rest of a question below TLS goes before the next one", HTTP, " or self._tcp.get_write_buffer_size()", "", ONE_ANSWER),
    Mutant("a question is asked where the connection below TLS closes", HTTP, " or self._tcp.is_closing()", "", ONE_ANSWER),
    Mutant("a question is asked where the connection closes", HTTP, "self.closed or self.transport.is_closing() or ", "self.closed or ", ONE_ANSWER),
    Mutant("trailers are taken for headers", HTTP, "        if self._status:\n            return\n        self._head_room", "        self._head_room", ONE_ANSWER),
    Mutant("a reset is taken for the end of a body", HTTP, "        if exc is None and self._lasts_to_the_end():", "        if self._lasts_to_the_end():", ONE_ANSWER),
    Mutant("a cut body is taken for a whole one", HTTP, 'not {"content-length", "transfer-encoding"} & self._headers.keys()', "True", ONE_ANSWER),
    Mutant("a connection stays open after its question was given up", NODE, "            connection.abort()\n            raise\n", "            raise\n", CONNECTIONS),
    Mutant("a connection rests for ever", NODE, "if now - connection.idle_since <= IDLE_SECONDS and", "if", CONNECTIONS),
    Mutant("a connection that nobody asks for rests for ever", NODE, "            if connection.idle_since <= long_ago:", "            if False:", CONNECTIONS),
    Mutant("a paid question is asked again where its connection broke", NODE, "            connection.abort()\n            raise\n", "            connection.abort()\n            return await (await self._connected()).ask(request, most_bytes=most_bytes, by=by)\n", CONNECTIONS),
    Mutant("a header makes another one", NODE, '        if any("\\r" in line or "\\n" in line for line in lines):', "        if False:", CONNECTIONS),
    Mutant("a proxy that refuses is taken for one that does not", CONNECTING, "None if status == _CONNECTED else _refused()", "None", CONNECTIONS),
    Mutant("a proxy may speak for ever", CONNECTING, "        if self._read > HEAD_BYTES:", "        if False:", CONNECTIONS),
    Mutant("a proxy gets its login in clear", CONNECTING, '                    if self._proxy.scheme == "https":', "                    if False:", CONNECTIONS),
    Mutant("Airflow is not told what to mask", HOOK, "        _mask(fields.secrets)\n", "", HOOKS),
    Mutant("Airflow is not told what to mask of a body", HOOK, "        _mask(shapes)\n", "", HOOKS),
    Mutant("a short key is taken", ADDRESS, "    if len(secret) < SHORTEST_SECRET:", "    if False:", ADDRESSES),
    # The end of a run.
    Mutant("an exact sum does not go before what was written ahead", METER, "            if key + EXACT in keys:", "            if False:", LEASES),
    Mutant("a write that failed is never settled", METER, "            self._touched = True\n            await self._write(self._key, most)\n", "            await self._write(self._key, most)\n            self._touched = True\n", LEASES),
    Mutant("rows are blamed before the answer is kept", SENDER, "                self._took(batch)\n", "                self._took(batch)\n                await self._blame_rows()\n", ENGINE),
    Mutant("the end of a run is deaf", ENGINE_ROOM, "await _unless_stopped(self._outwards(self._report, self._progress(sender)), stop)", "await self._outwards(self._report, self._progress(sender))", STOPPING),
    Mutant("a last look at the source is deaf", ENGINE_ROOM, "await _unless_stopped(_in_thread(self._source.check_unchanged, self._options.drain_seconds), stop)", "await asyncio.to_thread(self._source.check_unchanged)", STOPPING),
    Mutant("a reason is lost with the row before it", SENDER, "        for outcome in await asyncio.gather(*marking, return_exceptions=True):\n            if isinstance(outcome, BaseException):\n                raise outcome\n", "        for one in marking:\n            await one\n", ENGINE),
    Mutant("reasons are lost with a row of the answer that tells them", SENDER, "                    await self._blame_rows()\n                    raise\n", "                    raise\n", ENGINE),
    Mutant("what a stop gave up was not written", SENDER, "self.spent = self.spent.plus(Spent(written=len(late) * self._written_on_average))", "pass", LEASES),
    Mutant("stores have few threads", APART, "ThreadPoolExecutor(STORE_THREADS, ", "ThreadPoolExecutor(6, ", STOPPING),
    Mutant("a drain that is cancelled leaves requests behind", SENDER, "        finally:\n            settled.cancel()\n", "        except GeneratorExit:\n            pass\n        else:\n            settled.cancel()\n", PACES),
    Mutant("a part that cannot be kept is noticed a part later", WRITER, "if self._sealing is not None and self._sealing.done():", "if False:", PACES),
    Mutant("asked to stop, nothing is waited for", SENDER, "timeout=self._options.drain_seconds)", "timeout=0.0)", STOPPED),
    Mutant("asked to stop, a request has the time that it always has", SENDER, "= {settled, hurry}", "= {settled}", STOPPED),
    Mutant("asked to stop, half a minute is waited for", f"{PACKAGE}/engine/options.py", "DRAIN_SECONDS = 3.0", "DRAIN_SECONDS = 30.0", STOPPED),
    Mutant("answers count once their part is finished", SENDER, "        await self._vault.journal.append(Record(keys, batch.rows, decoded.columns, errors, batch.parts))\n", "        del errors\n", KILLED),
    Mutant("an answer counts before it is durable", SENDER, "        await self._vault.journal.append(Record(keys, batch.rows, decoded.columns, errors, batch.parts))\n", "        self._loop.create_task(self._vault.journal.append(Record(keys, batch.rows, decoded.columns, errors, batch.parts)))\n", CUTS + HISTORIES),
    Mutant("a commit whose books do not balance is believed", RECORDS, "    if counts.rows != rows:", "    if False:", COMMIT),
    Mutant("columns are asked of a part that does not have them", f"{PACKAGE}/dataset/parts.py", "if not {*columns} <= {*self._parquet.schema_arrow.names}:", "if False:", COMMIT),
    Mutant("Retry-After is not heard", GOVERNOR_ROOM, "if retry_after is not None and retry_after > 0.0:", "if False:", GOVERNOR),
    Mutant("an absurd Retry-After is believed", GOVERNOR_ROOM, "min(retry_after, LONGEST_RETRY_AFTER)", "retry_after", GOVERNOR),
    Mutant("retries cost nothing", GOVERNOR_ROOM, "if self._budget >= 1.0:", "if True:", GOVERNOR),
    Mutant("the breaker does not open", GOVERNOR_ROOM, "self._failed_in_row >= BREAK_AFTER", "False", GOVERNOR),
    Mutant("patience has no end", GOVERNOR_ROOM, "return self._limits.patience - (0.0 if", "return self._limits.patience - (0.0 if True or", GOVERNOR),
    Mutant("a refusal does not slow down", GOVERNOR_ROOM, "            self._slow_down(now, permit, unit)\n", "            pass\n", GOVERNOR),
    Mutant("too many at once does not narrow", GOVERNOR_ROOM, "self._narrow(now, CUT * (self._ceiling - 1.0))", "pass", GOVERNOR),
    Mutant("places are taken all at once", GOVERNOR_ROOM, "> max(at, now + TOGETHER):", "> math.inf:", GOVERNOR),
    Mutant("growth takes steps", GOVERNOR_ROOM, "0.0 if grows else min(", "min(", GOVERNOR),
    Mutant("a permit is given back twice", GOVERNOR_ROOM, "        if not permit.is_open:", "        if False:", ("tests/governor",)),
)  # fmt: skip
