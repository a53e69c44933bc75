"""Makes rows of what callers submit: tokenises, checks, replays what is resumed."""

import time
from collections.abc import Callable

from engine.contract import EngineError
from engine.events import Failed
from engine.mlx_worker.growing_prompt import GrowingPrompt
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.prepare import PreparedRequest, Preparer, invalid
from engine.mlx_worker.row import Row
from engine.mlx_worker.step_loop import Order, Send
from engine.mlx_worker.text import DecoderFactory
from engine.requests import ChatInput, ModelInput, PartsInput, TextInput, field_of
from engine.resumption import replay
from engine.stop_strings import StopStringMatcher
from engine.wire import Cancel, Count, Counted, PromptPart, Submit, Tokenise, Tokenised

# From here on a text is long: about 5 ms for a fast tokenizer. So many tokens to be replayed take longer.
_LONG_CHARS = 4096


class Intake:
    """Takes what needs the tokenizer. Used in other threads than the model's.

    The calls about one stream come one after the other; those about different ones may overlap.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        hand_over: Callable[[Order], None],
        send: Send,
        *,
        default_max_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """hand_over: gives the step loop an order. send: takes what is answered without the model."""
        self._preparer = Preparer(
            loaded.tokenizer, loaded.info, loaded.eos_token_ids, default_max_tokens=default_max_tokens
        )
        self._decoders = DecoderFactory(loaded.tokenizer)
        self._hand_over = hand_over
        self._send = send
        self._clock = clock
        self._prompts: dict[int, GrowingPrompt] = {}
        # The first use sets the tokenizer's options; later ones only read it, so threads may share it.
        self._preparer.tokenise_text("")

    def takes_long(self, command: Submit | PromptPart | Count | Tokenise) -> bool:
        """Whether a command is better carried out in a thread beside the main one."""
        match command:
            case Submit():
                chars = max(_chars(command.request.input), len(command.request.resume_ids))
            case PromptPart():
                prompt = self._prompts.get(command.stream)
                chars = prompt.chars + len(command.text) if prompt is not None else 0
            case Count():
                chars = _chars(command.input)
            case Tokenise():
                chars = _chars(command.request.input)
        return chars >= _LONG_CHARS

    def submit(self, command: Submit) -> None:
        stream, request = command.stream, command.request
        submitted_s = self._clock()
        try:
            if isinstance(request.input, PartsInput):
                self._preparer.check_ids(request)
                self._prompts[stream] = GrowingPrompt(request, submitted_s)
                self._hand_over(self._open_row(stream, self._prompts[stream], []))
            else:
                prepared = self._preparer.prepare(request)
                self._run(stream, prepared, submitted_s, self._clock() - submitted_s)
        except EngineError as error:
            self._fail(stream, error)

    def add(self, part: PromptPart) -> None:
        """The next piece of a prompt; nothing for a stream that has ended."""
        prompt = self._prompts.get(part.stream)
        if prompt is None:
            return
        prompt.add(part.text)
        try:
            if part.last:
                self._complete(part.stream, prompt)
            elif prompt.has_doubled:
                self._grow(part.stream, prompt)
        except EngineError as error:
            self._fail(part.stream, error)
            self.forget(part.stream)
            self._hand_over(Cancel(part.stream))

    def forget(self, stream: int) -> None:
        """Drop the pieces of a prompt that will not be whole."""
        self._prompts.pop(stream, None)

    def count(self, command: Count) -> None:
        try:
            tokens = len(self._preparer.tokenise(command.input))
        except EngineError as error:
            self._send([Counted(command.call, 0, error.reason, error.message, error.field)])
        else:
            self._send([Counted(command.call, tokens, None, "", "")])

    def tokenise(self, command: Tokenise) -> None:
        began_s = self._clock()
        try:
            self._preparer.check_ids(command.request)
            ids = tuple(self._preparer.tokenise(command.request.input))
        except EngineError as error:
            self._send([Tokenised(command.call, (), 0.0, error.reason, error.message, error.field)])
        else:
            self._send([Tokenised(command.call, ids, self._clock() - began_s, None, "", "")])

    def _grow(self, stream: int, prompt: GrowingPrompt) -> None:
        ids = prompt.stable(self._preparer.tokenise_text(prompt.take_text()))
        self._preparer.check_room(field_of(prompt.request.input), len(ids))
        if ids:
            self._hand_over(self._open_row(stream, prompt, ids, supersedes=True))

    def _complete(self, stream: int, prompt: GrowingPrompt) -> None:
        self.forget(stream)
        if not prompt.chars:
            raise invalid(field_of(prompt.request.input), "is empty")
        began_s = self._clock()
        ids = self._preparer.tokenise_text(prompt.take_text())
        prepared = self._preparer.with_prompt(prompt.request, ids)
        self._run(stream, prepared, prompt.submitted_s, self._clock() - began_s, supersedes=True)

    def _run(
        self,
        stream: int,
        prepared: PreparedRequest,
        submitted_s: float,
        tokenise_s: float,
        *,
        supersedes: bool = False,
    ) -> None:
        """Hand a whole row over, or end its stream where that needs no model. Raises EngineError."""
        row = Row(
            stream=stream,
            prepared=prepared,
            decoder=self._decoders.make(prepared.prompt_ids),
            stops=StopStringMatcher(prepared.request.stopping.stop_strings),
            submitted_s=submitted_s,
            tokenise_s=tokenise_s,
            supersedes=supersedes,
        )
        end = replay(
            prepared.request,
            max_tokens=prepared.max_tokens,
            ending_ids=prepared.ending_ids,
            text_of=row.decoder.push,
            stops=row.stops,
        )
        row.generated = list(prepared.request.resume_ids)
        if end is None:
            self._hand_over(row)
            return
        self._send([row.finished(end, stop_token_id=None, now_s=self._clock())])
        if supersedes:
            self._hand_over(Cancel(stream))

    def _open_row(
        self, stream: int, prompt: GrowingPrompt, ids: list[int], *, supersedes: bool = False
    ) -> Row:
        return Row(
            stream=stream,
            prepared=self._preparer.with_open_prompt(prompt.request, ids),
            # It gives no token, so neither of the two has anything to do.
            decoder=self._decoders.make([]),
            stops=StopStringMatcher(()),
            submitted_s=prompt.submitted_s,
            whole=False,
            supersedes=supersedes,
        )

    def _fail(self, stream: int, error: EngineError) -> None:
        self._send([Failed(stream, error.reason, error.message, error.field)])


def _chars(model_input: ModelInput) -> int:
    """Characters that have to be tokenised."""
    match model_input:
        case TextInput():
            return len(model_input.text)
        case ChatInput():
            return sum(len(content) for _, content in model_input.messages)
    return 0
