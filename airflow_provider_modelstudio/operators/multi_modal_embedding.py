"""Texts, images and videos of a Parquet dataset to dense vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.inference.dataset.images import SourceWithImages
from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.tasks.multi_modal_embedding import MultiModalEmbedding
from airflow_provider_modelstudio.operators.dataset import InferenceOperator
from airflow_provider_modelstudio.operators.locations import open_images
from airflow_provider_modelstudio.operators.rendered import (
    POLICY,
    VECTOR_TYPES,
    choice,
    flag,
    mapping,
    number,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context, ObjectStoragePath

    from airflow_provider_modelstudio.catalog import Model
    from airflow_provider_modelstudio.inference.dataset import Source
    from airflow_provider_modelstudio.inference.engine import Budget, Options
    from airflow_provider_modelstudio.inference.tasks import InferenceTask
    from airflow_provider_modelstudio.inference.transport import EndpointFacts

__all__ = ["MultiModalEmbedOperator"]


class MultiModalEmbedOperator(InferenceOperator):
    """One vector for each row's text, image, video or list of images (``multi_modal_embedding``).

    Addresses are handed on, not fetched: the service must be able to reach them.
    Images may also be bytes, or files below ``image_root``; those are sent themselves.
    How many tokens an image or a video has is not known: with a column of them no cost is estimated, and ``max_cost`` and
    ``max_total_tokens`` are refused.

    :param text_column: column with texts. (templated)
    :param image_column: column with addresses, paths or bytes of images. (templated)
    :param video_column: column with addresses of videos. (templated)
    :param multi_images_column: column with lists of images, several views of one thing. (templated)
    :param output_column: column for the vector; ``<output_column>_error`` says why a row has none. (templated)
    :param independent: the model gives a vector for each element instead of one for all; then name one column, and use
        an operator for each column. ``None``: as the catalog has it of ``model``, or of the model the endpoint is named
        like, else false. (templated)
    :param image_root: folder with the images that rows name by a path, relative to it or whole; a local path or an
        object storage URI. Nothing outside of it is read. ``None``: a path is no image. (templated)
    :param max_image_bytes: largest image that is sent itself. (templated)
    :param max_tokens: longest text the model takes, in estimated tokens; ``None``: twice what the catalog has of the
        model, since estimates are rough; any where it has nothing. (templated)
    :param on_empty: what rows with nothing to embed do: ``"null"`` or ``"fail"``. (templated)
    :param vector_type: ``"float32"``, or smaller: ``"float16"``, or ``"int8"`` with a column ``<output_column>_scale`` beside
        it; answers on record as float32 are converted, not asked again. (templated)
    :param task_settings: sent with each request, for endpoints that know them. (templated)
    """

    template_fields: Sequence[str] = (
        *InferenceOperator.template_fields,
        "text_column",
        "image_column",
        "video_column",
        "multi_images_column",
        "output_column",
        "independent",
        "image_root",
        "max_image_bytes",
        "max_tokens",
        "on_empty",
        "vector_type",
        "task_settings",
    )

    def __init__(
        self,
        *,
        text_column: str | None = None,
        image_column: str | None = None,
        video_column: str | None = None,
        multi_images_column: str | None = None,
        output_column: str = "embedding",
        independent: bool | str | None = None,
        image_root: str | ObjectStoragePath | None = None,
        max_image_bytes: int | str = 10 * 1024 * 1024,
        max_tokens: int | str | None = None,
        on_empty: str = "null",
        vector_type: str = "float32",
        task_settings: dict[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text_column = text_column
        self.image_column = image_column
        self.video_column = video_column
        self.multi_images_column = multi_images_column
        self.output_column = output_column
        self.independent = independent
        self.image_root = image_root
        self.max_image_bytes = max_image_bytes
        self.max_tokens = max_tokens
        self.on_empty = on_empty
        self.vector_type = vector_type
        self.task_settings = task_settings

    def make_task(self) -> InferenceTask:
        """``multi_modal_embedding`` of the columns that are named."""
        self._check_guards()
        most_bytes = whole("max_image_bytes", self.max_image_bytes, 1, 20 * 1024 * 1024)
        known = self.model_for("multi_modal_embedding")
        independent = known is not None and known.vectors == "independent"
        if self.independent is not None:
            independent = flag("independent", self.independent)
        elif known is not None and known.vectors == "both":
            self._check_fusion(known)
        rows = 1
        if independent and known is not None and self.multi_images_column is None:  # else rows are not elements
            rows = min(filter(None, (known.elements_per_request, known.images_per_request)), default=1)
        return MultiModalEmbedding(
            text_column=self.text_column,
            image_column=self.image_column,
            video_column=self.video_column,
            multi_images_column=self.multi_images_column,
            output_column=self.output_column,
            independent=independent,
            limits=RequestLimits(rows=self.rows_per_request(rows), size=64 * 1024 * 1024),
            images=None if self.image_root is None else open_images(self.image_root, most_bytes),
            max_image_bytes=most_bytes,
            max_images=known.images_per_request if known is not None else None,
            max_tokens=self.longest_text(self.max_tokens, "multi_modal_embedding"),
            on_empty=choice("on_empty", self.on_empty, POLICY),
            vector_type=choice("vector_type", self.vector_type, VECTOR_TYPES),
            task_settings=mapping("task_settings", self.task_settings),
        )

    def _options(self, context: Context) -> Options:
        """Where rows may have several elements, the first answer tells what the model does with them: until then, ask one."""
        options = super()._options(context)
        if len(self._columns) < 2:  # noqa: PLR2004
            return options
        return replace(options, limits=replace(options.limits, start_concurrency=1))

    def _budget(self, facts: EndpointFacts, region: str | None) -> Budget:
        """Without a price where there are images or videos: nobody says how many tokens one has."""
        budget = super()._budget(facts, region)
        if not self._has_media:
            return budget
        self.log.info(
            "tokens are counted of texts alone, and no cost is estimated: that of images and videos is not known"
        )
        return replace(budget, price=None, currency=None)

    def _check_guards(self) -> None:
        """A guard that cannot see what is spent guards nothing."""
        guards = {
            "max_cost": number("max_cost", self.max_cost),
            "max_total_tokens": number("max_total_tokens", self.max_total_tokens),
        }
        blind = next((name for name, most in guards.items() if most is not None), None)
        if blind and self._has_media:
            raise ConfigurationError(
                f"{blind} cannot be kept: how many tokens an image or a video has is known to the service alone; "
                "use max_rows or max_requests"
            )

    @property
    def _has_media(self) -> bool:
        return any((self.image_column, self.video_column, self.multi_images_column))

    @property
    def _columns(self) -> list[str]:
        columns = (self.text_column, self.image_column, self.video_column, self.multi_images_column)
        return [column for column in columns if column is not None]

    def _check_fusion(self, known: Model) -> None:
        """A model of both kinds must have been told to fuse where rows have several elements."""
        settings = mapping("task_settings", self.task_settings) or {}
        told = [settings, settings.get("parameters")]
        fuses = any(isinstance(one, dict) and one.get("enable_fusion") is True for one in told)
        if len(self._columns) > 1 and not fuses:
            raise ConfigurationError(
                f"model {known.name!r} gives one vector for each element unless it is told to fuse them: embed one column at "
                "a time, each into an output_column of its own, or, where the endpoint has enable_fusion, set independent=False"
            )

    def arrange(self, source: Source, task: InferenceTask) -> Source:
        """The source, with as many rows at a time as their image files allow."""
        if not isinstance(task, MultiModalEmbedding) or task.images is None:
            return source
        return SourceWithImages(source.filesystem, source.location, source.files, source.schema, task.image_bytes)
