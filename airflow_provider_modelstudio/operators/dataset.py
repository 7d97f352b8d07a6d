"""What all operators over a dataset share: read, ask, write, tell."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.catalog import Catalog
from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.inference.dataset.groups import GroupedSource
from airflow_provider_modelstudio.inference.decide import Stop, decide
from airflow_provider_modelstudio.inference.engine import (
    Budget,
    Estimate,
    Options,
    Progress,
    StopSignal,
    estimate,
    run,
    run_apart,
    served,
)
from airflow_provider_modelstudio.inference.errors import (
    ConfigurationError,
    EndpointError,
    ModelStudioError,
    OutageError,
    PermanentError,
    RequestError,
    without_suppressed,
)
from airflow_provider_modelstudio.inference.governor import Limits
from airflow_provider_modelstudio.inference.plan import make_plan
from airflow_provider_modelstudio.inference.survey.recall import WiderRecord
from airflow_provider_modelstudio.inference.tasks.tokens import MARGIN
from airflow_provider_modelstudio.inference.vault import Vault
from airflow_provider_modelstudio.operators.identity import errand, identity, may_have_passed, told
from airflow_provider_modelstudio.operators.locations import open_locations, open_state
from airflow_provider_modelstudio.operators.rendered import (
    choice,
    flag,
    number,
    text,
    text_or_none,
    whole,
    whole_or_none,
)
from airflow_provider_modelstudio.operators.reports import report, tell, tell_estimate
from airflow_provider_modelstudio.operators.state_store import fence, keep_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context, ObjectStoragePath

    from airflow_provider_modelstudio.catalog import Model
    from airflow_provider_modelstudio.inference.dataset import Source
    from airflow_provider_modelstudio.inference.storage import Storage
    from airflow_provider_modelstudio.inference.summary import Summary
    from airflow_provider_modelstudio.inference.tasks import InferenceTask
    from airflow_provider_modelstudio.inference.transport import ElasticTransport, EndpointFacts

__all__ = ["InferenceOperator"]


class InferenceOperator(BaseOperator):
    """Ask an inference endpoint for each row of a Parquet dataset, and write the rows with their answers.

    All input columns are kept, in input order.
    A row without an answer keeps its place, with a reason in the error column, unless ``on_row_error`` says otherwise.
    A retry goes on from what was paid for; a run that is finished asks nothing.

    :param inference_id: the inference endpoint, as ``GET _inference`` lists it. (templated)
    :param source: Parquet file, folder (read recursively) or glob; a local path or an object storage URI. (templated)
    :param destination: folder, or file that ends in ``.parquet``; a local path or an object storage URI. State is kept
        beside it, in ``_<name>.inference``. (templated)
    :param modelstudio_conn_id: the connection. (templated)
    :param batch_size: most rows in a request; the default is what Model Studio takes, 10. (templated)
    :param concurrency: most requests in flight; the service's own limits are found out. (templated)
    :param requests_per_minute: your quota, if you know it; ``None`` finds it out. (templated)
    :param tokens_per_minute: your quota, if you know it; ``None`` finds it out. (templated)
    :param on_row_error: what a row without an answer does: ``"null"`` keeps it with a reason, ``"quarantine"`` keeps
        it with its reason in a dataset of its own, ``"fail"`` fails the task when the service refuses it. (templated)
    :param max_error_rate: share of rows, 0 to 1, that may fail before the task does; ``None`` for no bound. (templated)
    :param if_exists: ``"update"`` asks only for rows that changed since the last run, ``"overwrite"`` asks for all,
        ``"error"`` refuses a destination that has data. (templated)
    :param errors_only: of a dataset that is finished, ask again for the rows that have a reason instead of an answer.
        (templated)
    :param reuse_from: another destination of the same endpoint and settings, whose answers count as known. (templated)
    :param model: the endpoint's model as the catalog names it, for its price and limits; ``None`` takes the price of the
        model that the endpoint tells, and the limits of one text and of a rerank or multi-modal request of the model
        that it is named like. (templated)
    :param max_rows: refuse to start when more rows would be asked for. (templated)
    :param max_requests: stop at so many requests, over all tries; a try that is killed counts those it was about to
        send. (templated)
    :param max_total_tokens: refuse to start when more estimated tokens would be sent, and stop when so many were, over
        all tries. (templated)
    :param max_cost: refuse to start when the estimate is higher, and stop when it is reached, over all tries; in the
        currency of the price. (templated)
    :param dry_run: ask nothing; return how many rows, requests and tokens a run would need, and what they would cost.
        (templated)
    """

    template_fields: Sequence[str] = (
        "inference_id",
        "source",
        "destination",
        "modelstudio_conn_id",
        "batch_size",
        "concurrency",
        "requests_per_minute",
        "tokens_per_minute",
        "on_row_error",
        "max_error_rate",
        "if_exists",
        "errors_only",
        "reuse_from",
        "model",
        "max_rows",
        "max_requests",
        "max_total_tokens",
        "max_cost",
        "only_estimate",
    )
    _stop: StopSignal | None = None
    """``None`` until the operator is executed."""
    _catalog: Catalog | None = None
    """The same: models as the connection knows them."""
    ui_color = "#ff6a00"
    ui_fgcolor = "#fff"

    def __init__(
        self,
        *,
        inference_id: str,
        source: str | ObjectStoragePath,
        destination: str | ObjectStoragePath,
        modelstudio_conn_id: str = ModelStudioHook.default_conn_name,
        batch_size: int | str | None = None,
        concurrency: int | str = 64,
        requests_per_minute: float | str | None = None,
        tokens_per_minute: float | str | None = None,
        on_row_error: str = "null",
        max_error_rate: float | str | None = None,
        if_exists: str = "update",
        errors_only: bool | str = False,
        reuse_from: str | ObjectStoragePath | None = None,
        model: str | None = None,
        max_rows: int | str | None = None,
        max_requests: int | str | None = None,
        max_total_tokens: int | str | None = None,
        max_cost: float | str | None = None,
        dry_run: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inference_id = inference_id
        self.source = source
        self.destination = destination
        self.modelstudio_conn_id = modelstudio_conn_id
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.on_row_error = on_row_error
        self.max_error_rate = max_error_rate
        self.if_exists = if_exists
        self.errors_only = errors_only
        self.reuse_from = reuse_from
        self.model = model
        self.max_rows = max_rows
        self.max_requests = max_requests
        self.max_total_tokens = max_total_tokens
        self.max_cost = max_cost
        self.only_estimate = dry_run  # BaseOperator has a method of the other name

    @abstractmethod
    def make_task(self) -> InferenceTask:
        """The task type bound to this operator's columns."""

    def arrange(self, source: Source, task: InferenceTask) -> Source:  # noqa: ARG002  # for those that need it
        """The source as the task is to read it."""
        return source

    @property
    def known_model(self) -> Model | None:
        """What the catalog has of ``model``; ``None`` when none is named."""
        return self._model(self.model) if self.model else None

    def model_for(self, task_type: str) -> Model | None:
        """What the catalog has of ``model``, or of the model that the endpoint is named like, as consoles name them."""
        if self.model:
            return self.known_model
        model = (self._catalog or Catalog.read()).get(self.inference_id)
        return model if model is not None and task_type in model.task_types else None

    def longest_text(self, max_tokens: Any, task_type: str, *, cut: bool = False) -> int | None:
        """``max_tokens``, or what the model takes with a margin for the estimate; ``None`` where neither is known.

        What is cut is cut to what the model takes.
        """
        said = whole_or_none("max_tokens", max_tokens, 1, 10_000_000)
        known = self.model_for(task_type)
        if said is not None or known is None or known.tokens_per_row is None:
            return said
        return known.tokens_per_row if cut else known.tokens_per_row * MARGIN

    def rows_per_request(self, default: int) -> int:
        """``batch_size``, or what the model takes, or the task type."""
        known = self.known_model
        usual = known.rows_per_request if known is not None and known.rows_per_request else default
        return whole_or_none("batch_size", self.batch_size, 1, 2048) or usual

    def execute(self, context: Context) -> dict[str, Any]:
        """Bring the destination up to date.

        :return: the summary: counts, cost, where the data is. Never rows.
        """
        self._stop = stop = StopSignal()
        try:
            summary = self._run(context, stop)
        except ModelStudioError as error:
            without_suppressed(error)
            if isinstance(error, PermanentError):
                raise AirflowFailException(str(error)) from error
            raise
        record = summary.as_dict()
        if isinstance(summary, Estimate):
            tell_estimate(summary)
            return record
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = record
        tell(summary)
        return record

    def on_kill(self) -> None:
        """Stop sending; answers in flight are kept for the next try."""
        if self._stop is not None:
            self._stop.request()

    def _run(self, context: Context, stop: StopSignal) -> Summary | Estimate:
        options = self._options(context)
        text("inference_id", self.inference_id)
        text_or_none("model", self.model)
        hook = ModelStudioHook(self.modelstudio_conn_id)
        self._catalog = hook.catalog  # Airflow is asked for the connection before the loop starts
        task = self.make_task()
        source, storage = open_locations(self.source, self.destination)
        self._check_model(task)
        task.check(source.schema)
        clash = sorted({*task.output_columns, task.error_column} & set(source.schema.names))
        if clash:
            raise ConfigurationError(
                f"the source has a column {clash[0]!r} already; name another output_column "
                "(or property of response_schema), or leave that column out"
            )
        source = self.arrange(source, task)
        connection = hook.fields
        looks: list[dict[str, Any]] = []
        try:
            return run_apart(self._ask(context, hook, source, storage, task, options, stop, looks), stop)
        except EndpointError as error:
            hook = ModelStudioHook(self.modelstudio_conn_id)
            if not looks or not may_have_passed(error, rotated=hook.fields != connection):
                raise
            self.log.warning("%s; the connection and the endpoint are looked at once more", error)
        return run_apart(self._ask(context, hook, source, storage, task, options, stop, looks), stop)

    async def _ask(
        self,
        context: Context,
        hook: ModelStudioHook,
        source: Source,
        storage: Storage,
        task: InferenceTask,
        options: Options,
        stop: StopSignal,
        looks: list[dict[str, Any]],
    ) -> Summary | Estimate:
        """Ask what is not known, of the endpoint as it was at the first of the ``looks``."""
        only_estimate = flag("dry_run", self.only_estimate)
        output: dict[str, Any] = {
            "columns": task.output_columns,
            "schema": str(source.schema),
            "task": told(task),
            "on_row_error": options.on_row_error,
            "max_error_rate": options.max_error_rate,
        }
        # A finished run is not the answer this time, except to its own retry.
        again = options.owner if not options.reuse or flag("errors_only", self.errors_only) else None
        options = replace(
            options,
            errand=errand(
                options.owner,
                again=again,
                endpoint=(hook.fields.cluster.url, task.task_type, self.inference_id, self.model or ""),
                output=output,
                files=source.files,
            ),
        )
        if not only_estimate and (summary := await served(storage, options)) is not None:
            return summary
        transport = hook.transport()
        try:
            facts = await self._look(transport, task)
            looks.append(identity(facts))
            if looks[-1] != looks[0]:
                raise EndpointError(
                    f"the inference endpoint {self.inference_id!r} was made anew with other settings while the task was "
                    "running; run it again to ask everything of the new one"
                )
            planned = partial(
                make_plan,
                source.files,
                endpoint=looks[0],
                output=output,
                again=again,
                single_file=storage.destination.endswith(".parquet"),
                part_starts=source.part_starts if isinstance(source, GroupedSource) else None,
            )
            plan = planned(settings=task.settings())
            vault = Vault(storage, plan)
            if self.if_exists == "error" and await storage.published() and await vault.committed() is None:
                raise ConfigurationError(
                    f"the destination {storage.destination} has data, and if_exists is 'error'; "
                    "use 'update' to bring it up to date or 'overwrite' to ask everything anew"
                )
            elsewhere = None if self.reuse_from is None else open_state(self.reuse_from)
            wider = None
            if task.wider is not None:
                wide_plan = planned(settings=task.wider.settings)
                places = [storage] if elsewhere is None else [storage, elsewhere]
                wider = WiderRecord([Vault(place, wide_plan) for place in places], task.wider.narrow)
            options = replace(
                options,
                limits=replace(options.limits, timeout=transport.config.server_timeout),
                dimensions=facts.dimensions,
                budget=self._budget(facts, hook.account.region),
                reuse_from=None if elsewhere is None else Vault(elsewhere, plan),
                wider=wider,
                fence=lambda: fence(context, plan.run_key),
            )
            if only_estimate:
                return await estimate(plan, source, task, vault=vault, options=options)
            return await run(
                plan,
                source,
                task,
                inference_id=self.inference_id,
                transport=transport,
                vault=vault,
                options=options,
                stop=stop,
                report=lambda progress: self._report(context, progress),
            )
        finally:
            await transport.aclose()

    async def _look(self, transport: ElasticTransport, task: InferenceTask) -> EndpointFacts:
        """Ask Elasticsearch, for free, what the endpoint is, before anything is paid."""
        try:
            return await transport.describe(task.task_type, self.inference_id)
        except RequestError as error:
            decision = decide(error, rows=1, attempts=0)
            if isinstance(decision, Stop):
                kind = type(decision.error)
                raise kind(f"endpoint {self.inference_id!r}: {decision.error}") from error
            raise OutageError(f"{error}; nothing was asked yet") from error

    def _model(self, name: str) -> Model:
        catalog = self._catalog or Catalog.read()
        model = catalog.get(name)
        if model is None:
            near = catalog.suggest(name)
            raise ConfigurationError(
                f"the catalog has no model {name!r}{f', but {near!r}' if near else ''}; "
                "if it is new, leave model out or describe it in extra models of the connection"
            )
        return model

    def _check_model(self, task: InferenceTask) -> None:
        """Limits and prices of a model for something else would be wrong without a sign."""
        known = self.known_model
        if known is not None and task.task_type not in known.task_types:
            raise ConfigurationError(
                f"model {known.name!r} is for {' and '.join(known.task_types)}, not for {task.task_type}"
            )

    def _budget(self, facts: EndpointFacts, region: str | None) -> Budget:
        """The guards, with the price of the model in the region of the connection."""
        catalog = self._catalog or Catalog.read()
        told = (facts.service_settings.get("model_id"), facts.service_settings.get("model"), facts.inference_id)
        model = self.known_model or next(filter(None, map(catalog.get, map(str, told))), None)
        price = model.price(_tariff(region)) if model is not None and region else None
        return Budget(
            max_rows=whole_or_none("max_rows", self.max_rows, 0, 10**12),
            max_requests=whole_or_none("max_requests", self.max_requests, 0, 10**12),
            max_tokens=whole_or_none("max_total_tokens", self.max_total_tokens, 0, 10**15),
            max_cost=number("max_cost", self.max_cost),
            price=None if price is None else price.per_million,
            output_price=(price.output_per_million if price is not None else None) or 0.0,
            currency=None if price is None else price.currency,
        )

    def _options(self, context: Context) -> Options:
        ti = context["ti"]
        return Options(
            limits=Limits(
                max_concurrency=whole("concurrency", self.concurrency, 1, 512),
                requests_per_minute=number("requests_per_minute", self.requests_per_minute),
                tokens_per_minute=number("tokens_per_minute", self.tokens_per_minute),
            ),
            on_row_error=choice("on_row_error", self.on_row_error, ("null", "fail", "quarantine")),
            max_error_rate=number("max_error_rate", self.max_error_rate, most=1.0),
            reuse=choice("if_exists", self.if_exists, ("update", "overwrite", "error")) != "overwrite",
            owner=f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}",
        )

    def _report(self, context: Context, progress: Progress) -> None:
        report(progress)
        keep_progress(context, progress)


def _tariff(region: str) -> str:
    """Model Studio has one price list for the Chinese mainland and one for everywhere else."""
    return "cn" if region.startswith("cn-") and region != "cn-hongkong" else "intl"
