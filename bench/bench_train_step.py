"""The whole training step, across thread counts, batch sizes and sequence lengths."""


def bench_train_step(measure, case):
    measure(case)
