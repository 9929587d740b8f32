"""A stand-in for the `spaces` package of Spaces with shared GPUs.

As there: it has to be imported before torch; a decorated function runs in a forked process, with
arguments and results pickled; its duration is asked for before each call; a generator's results
come one by one. What it was asked for goes to the log.
"""

import inspect
import multiprocessing
import pickle
import sys

assert "torch" not in sys.modules, "spaces has to be imported before torch"

fork = multiprocessing.get_context("fork")


def GPU(function=None, duration=60):
    """Decorator: run in a process that has a device, for so many seconds."""
    if function is None:
        return lambda given: GPU(given, duration)

    def run(*arguments, **named):
        seconds = duration(*arguments, **named) if callable(duration) else duration
        print(f"GPU {function.__name__} for {seconds} s", file=sys.stderr, flush=True)
        receiver, sender = fork.Pipe(duplex=False)
        given = pickle.dumps((arguments, named))
        process = fork.Process(target=_work, args=(function, given, sender))
        process.start()
        sender.close()
        try:
            while (told := pickle.loads(receiver.recv_bytes()))[0] == "result":
                yield told[1]
            if told[0] == "error":
                raise told[1]
        finally:
            process.terminate()
            process.join()

    def once(*arguments, **named):
        (result,) = run(*arguments, **named)
        return result

    return run if inspect.isgeneratorfunction(function) else once


def _work(function, arguments: bytes, sender) -> None:
    try:
        given, named = pickle.loads(arguments)
        result = function(*given, **named)
        for one in result if inspect.isgenerator(result) else [result]:
            sender.send_bytes(pickle.dumps(("result", one)))
        sender.send_bytes(pickle.dumps(("end", None)))
    except BaseException as error:
        sender.send_bytes(pickle.dumps(("error", error)))
