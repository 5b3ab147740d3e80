"""The training engine: `loop.train_steps` runs one method over one stream of batches; read `loop.py` first.

loop         the steps
clock        steps as progress of the run
optim        what `optim=` configures: parameter groups, learning rate, clipping
average      exponential moving average of the weights
precision    fp32 or bf16, measured where it is not clear
compiling    torch.compile, block by block
flops        operations per step and the machine's peak: MFU
meter        sums between two log lines, on the device; the check for NaN
metrics      metrics.jsonl and TensorBoard
progress     what a terminal or a log file shows
checkpoint   atomic, complete, never pickled
run_dir      one directory, one run: lock, saved config, end mark
distributed  ranks
stopping     Ctrl-C and SIGTERM
"""
