/* engine/spec_keys.h - every key of the spec and every option of a layer, in one table each.
 *
 * The parser, --print-config, the help text and the complaints are made from these rows; a new key is a
 * new row (and a field of dml_spec).
 *
 *   default   YAML; "x; vgg y" is x, but y when the section's type, name or format is vgg;
 *             NONE: no default, it must be written or is derived from others
 *   allowed   numbers: a range such as >0 or [0,1).  words: the list, in the order of the enum
 *   only      the words of the section's type, name or format that know the key; "" is all
 *   aliases   other accepted names of the last part of the path
 */
#ifndef DML_ENGINE_SPEC_KEYS_H
#define DML_ENGINE_SPEC_KEYS_H

#define DML_SPEC_NONE ((const char *)0)

/* clang-format off */
/*    type       what a user reads       field of dml_spec or dml_layer_spec                                            */
#define DML_SPEC_TYPE_LIST(X)                                                                                            \
    X(TEXT,      "text")              /* const char *                                                                 */ \
    X(PATH,      "a path")            /* const char *, expanded                                                       */ \
    X(NAME,      "a word")            /* const char *, one of the allowed words                                       */ \
    X(SCHEDULE,  "a schedule")        /* const char *, canonical                                                      */ \
    X(WORD,      "a word")            /* an enum, the word's index                                                    */ \
    X(FLAG,      "a word")            /* bool, the index of one of two words                                          */ \
    X(BOOL,      "true or false")     /* bool                                                                         */ \
    X(INT,       "a whole number")    /* int32_t                                                                      */ \
    X(LONG,      "a whole number")    /* int64_t or uint64_t                                                          */ \
    X(FLOAT,     "a number")          /* float                                                                        */ \
    X(EPOCHS,    "a number of epochs")  /* double                                                                     */ \
    X(INTERVAL,  "steps or epochs")   /* dml_interval                                                                 */ \
    X(TIME,      "a time")            /* int64_t, ns                                                                  */ \
    X(RATE,      "a bandwidth")       /* double, bytes/s                                                              */ \
    X(BYTES,     "a size in bytes")   /* int64_t                                                                      */ \
    X(SCALE,     "dynamic or a power of two")  /* float, 0: dynamic                                                   */ \
    X(PAIR,      "a list of 2 numbers")             /* float[2]                                                       */ \
    X(CHANNELS,  "a list of 1 to 3 numbers")        /* float[3]; one number counts for all                            */ \
    X(SIZE,      "a whole number or [height, width]") /* int32_t[2]                                                   */ \
    X(INTS,      "a list of whole numbers")         /* dml_int_list                                                   */ \
    X(SHAPE,     "[features] or [channels, height, width]") /* model.input_rank and model.input                       */ \
    X(SPLIT,     "auto, uniform or a list of layers per stage") /* parallelism.split and .split_list                  */ \
    X(STAGES,    "a list of stages")                /* parallelism.stage and .n_stages                                */ \
    X(LAYERS,    "a list of layers")                /* model.layers                                                   */

/*    id                 path                                  type      field                                default                         allowed                              only                aliases                                                      meaning */
#define DML_SPEC_KEY_LIST(X)                                                                                             \
    X(VERSION,           "version",                            INT,      version,                             "1",                            "",                                  "",                 "",                                                          "version of the spec's format")                                             \
    X(RUN_NAME,          "run.name",                           TEXT,     run.name,                            DML_SPEC_NONE,                  "",                                  "",                 "run_name",                                                  "names the run; default: the file's name without .yaml")                    \
    X(RUN_SEED,          "run.seed",                           LONG,     run.seed,                            "1234",                         ">=0",                               "",                 "",                                                          "key of all random numbers; equal on every layout")                         \
    X(OUTPUT_DIR,        "run.output_dir",                     PATH,     run.output_dir,                      "runs/%name-%date",             "",                                  "",                 "out_dir",                                                   "metrics, logs and checkpoints go here; relative to the current directory") \
    X(MODEL_TYPE,        "model.type",                         NAME,     model.type,                          DML_SPEC_NONE,                  "mlp vgg resnet layers",             "",                 "",                                                          "a family, or layers written out")                                          \
    X(MODEL_INPUT,       "model.input",                        SHAPE,    model.input,                         "[1, 28, 28]",                  ">=1",                               "",                 "input_shape",                                               "shape of one sample")                                                      \
    X(CLASSES,           "model.classes",                      INT,      model.classes,                       "10",                           "[2,1000000]",                       "",                 "num_classes",                                               "number of labels")                                                         \
    X(HIDDEN,            "model.hidden",                       INTS,     model.family.hidden,                 "[128]",                        ">=1",                               "mlp",              "hidden_sizes",                                              "widths of the hidden layers")                                              \
    X(ACTIVATION,        "model.activation",                   WORD,     model.family.activation,             "relu",                         "relu gelu tanh",                    "mlp",              "",                                                          "after each hidden layer")                                                  \
    X(DEPTH,             "model.depth",                       INT,      model.family.depth,                   "20; vgg 8",                    ">=1",                               "vgg resnet",       "",                                                         "vgg: 8, 11, 13, 16, 19; resnet: 18, 34, 50, 101, 152, or 20, 32, 44, 56, ... (6n + 2)") \
    X(STEM,              "model.stem",                        WORD,     model.family.stem,                    DML_SPEC_NONE,                  "cifar imagenet",                    "resnet",           "",                                                         "the first layers. cifar: 3x3; imagenet: 7x7 / 2 and a pool, the default for depths 18 to 152 on images of 64 pixels and more") \
    X(ZERO_INIT,         "model.zero_init_residual",          BOOL,     model.family.zero_init_residual,      "false",                        "",                                  "resnet",           "",                                                         "each block's last batch norm starts at 0, so blocks start as the identity") \
    X(DROPOUT,           "model.dropout",                      FLOAT,    model.family.dropout,                "0; vgg 0.5",                   "[0,1)",                             "mlp vgg",          "",                                                          "rate after hidden linear layers")                                          \
    X(BN_ENABLED,        "model.batch_norm.enabled",          BOOL,     model.family.batch_norm,              "true",                         "",                                  "vgg",              "",                                                         "vgg16_bn against vgg16")                                                    \
    X(BN_STATS,          "model.batch_norm.stats",             FLAG,     model.family.per_micro_batch,        "deferred",                     "deferred per_micro_batch",          "vgg resnet layers", "",                                                         "running moments move once a step, or once a micro-batch")                  \
    X(BN_MOMENTUM,       "model.batch_norm.momentum",          FLOAT,    model.family.bn_momentum,            "0.1",                          "[0,1]",                             "vgg resnet layers", "",                                                         "weight of new moments in the running ones")                                \
    X(BN_EPS,            "model.batch_norm.eps",               FLOAT,    model.family.bn_eps,                 "1e-5",                         ">0",                                "vgg resnet layers", "",                                                         "added to the variance")                                                    \
    X(INIT,              "model.init.scheme",                  WORD,     model.init,                          "kaiming_uniform",              "kaiming_uniform kaiming_normal xavier_uniform", "",     "",                                                          "initial weights; kaiming_uniform is PyTorch's default")                    \
    X(LAYERS,            "model.layers",                       LAYERS,   model.layers,                        DML_SPEC_NONE,                  "",                                  "layers",           "",                                                          "the layers in order, without the loss")                                    \
    X(FORMAT,            "data.format",                        WORD,     data.format,                         "idx",                          "idx synthetic",                     "",                 "",                                                          "idx: the four MNIST-style files, plain or .gz; synthetic: noise of the model's input shape, random labels") \
    X(DATA_PATH,         "data.path",                          PATH,     data.path,                           "/usr/share/datasets/fashion-mnist", "",                             "",                 "dir folder",                                                "folder of the files; relative to the spec file")                           \
    X(SAMPLES,           "data.samples",                       LONG,     data.samples,                        "4096",                         ">=1",                               "synthetic",        "",                                                          "training samples")                                                         \
    X(TEST_SAMPLES,      "data.test_samples",                  LONG,     data.test_samples,                   "1024",                         ">=0",                               "synthetic",        "",                                                          "test samples")                                                             \
    X(POOL,              "data.pool",                         INT,      data.pool,                            "0",                            "[0,1048576]",                       "synthetic",        "",                                                         "samples made before the first step and used over and over (sample i is i % pool); 0: each is made when needed") \
    X(MEAN,              "data.normalize.mean",                CHANNELS, data.mean,                           "[0.2860]",                     "",                                  "",                 "",                                                          "per channel, of pixels scaled to 0..1")                                    \
    X(STD,               "data.normalize.std",                 CHANNELS, data.std,                            "[0.3530]",                     ">0",                                "",                 "",                                                          "per channel")                                                              \
    X(PAD,               "data.pad",                           INT,      data.pad,                            "0",                            "[0,64]",                            "",                 "padding",                                                   "zero pixels added on each side: 2 makes 28x28 into 32x32")                 \
    X(SHUFFLE,           "data.shuffle",                       BOOL,     data.shuffle,                        "true",                         "",                                  "",                 "",                                                          "a new order each epoch")                                                   \
    X(LAST_BATCH,        "data.last_batch",                    WORD,     data.last_batch,                     "wrap",                         "wrap short drop",                   "",                 "",                                                          "samples left at the end of an epoch: filled up, a smaller step, none")     \
    X(PREFETCH,          "data.prefetch",                      INT,      data.prefetch,                       "4",                            "[1,1024]",                          "",                 "",                                                          "micro-batches prepared ahead")                                             \
    X(EPOCHS,            "training.epochs",                    EPOCHS,   training.epochs,                     "10",                           ">=0",                               "",                 "num_epochs",                                                "passes over the data, unless max_steps is set")                            \
    X(MAX_STEPS,         "training.max_steps",                 LONG,     training.max_steps,                  "0",                            ">=0",                               "",                 "train_steps steps",                                         "optimizer steps; 0: epochs decides")                                       \
    X(GLOBAL_BATCH,      "training.global_batch_size",         INT,      training.global_batch_size,          "256",                          "[1,16777216]",                      "",                 "global_batch",                                              "samples of an optimizer step, over all replicas")                          \
    X(MICRO_BATCH,       "training.micro_batch_size",          INT,      training.micro_batch_size,           "32",                           "[1,16777216]",                      "",                 "micro_batch",                                               "samples of one forward on one replica")                                    \
    X(NUM_MICROBATCHES,  "training.num_microbatches",          INT,      training.num_microbatches,           DML_SPEC_NONE,                  "[1,65536]",                         "",                 "num_micro_batches micro_batches n_microbatches",            "micro-batches of a step over all replicas = global / micro")               \
    X(GRAD_CLIP,         "training.grad_clip",                 FLOAT,    training.grad_clip,                  "0",                            ">=0",                               "",                 "clip_grad max_norm max_grad_norm",                          "largest global norm of the gradient; 0: no clipping")                      \
    X(LOSS,              "training.loss",                      WORD,     training.loss,                       "cross_entropy",                "cross_entropy mse",                 "",                 "",                                                          "the last layer")                                                           \
    X(EVAL_INTERVAL,     "training.eval_interval",             INTERVAL, training.eval_interval,              "1 epoch",                      "",                                  "",                 "eval_every",                                                "test accuracy every so often; 0: only at the end")                         \
    X(NUMERICS,          "training.numerics",                  WORD,     training.numerics,                   "fast",                         "fast exact exact_wide",             "",                 "",                                                          "exact: the same bits on every layout; exact_wide: with no rescaling")      \
    X(PRECISION,          "training.precision",                  WORD,     training.precision,                   "fp32",                         "fp32 tf32 bf16 fp16",               "",                 "dtype amp mixed_precision",                                 "activations and products; weights stay float")                          \
    X(LOSS_SCALE,         "training.loss_scale",                 SCALE,    training.loss_scale,                  "dynamic",                      "",                                  "",                 "grad_scaler",                                               "fp16: dynamic begins at 65536; or a power of two")                      \
    X(OPTIMIZER,         "optimizer.name",                     WORD,     optimizer.name,                      "sgd",                          "sgd adamw",                         "",                 "",                                                          "the update rule")                                                          \
    X(LR,                "optimizer.lr",                       FLOAT,    optimizer.lr,                        "0.1; adamw 0.001",             ">0",                                "",                 "learning_rate",                                             "learning rate before the scheduler")                                       \
    X(MOMENTUM,          "optimizer.momentum",                 FLOAT,    optimizer.momentum,                  "0.9",                          "[0,1)",                             "sgd",              "",                                                          "PyTorch's, without dampening")                                             \
    X(NESTEROV,          "optimizer.nesterov",                 BOOL,     optimizer.nesterov,                  "false",                        "",                                  "sgd",              "",                                                          "look ahead along the momentum")                                            \
    X(WEIGHT_DECAY,      "optimizer.weight_decay",             FLOAT,    optimizer.weight_decay,              "0",                            ">=0",                               "",                 "wd",                                                        "sgd: added to the gradient; adamw: decoupled")                             \
    X(DECAY_ALL,         "optimizer.decay_all",                BOOL,     optimizer.decay_all,                 "false",                        "",                                  "",                 "",                                                          "decay biases and batch-norm parameters too")                               \
    X(BETAS,             "optimizer.betas",                    PAIR,     optimizer.betas,                     "[0.9, 0.999]",                 "[0,1)",                             "adamw",            "",                                                          "decay of the two moments")                                                 \
    X(OPT_EPS,           "optimizer.eps",                      FLOAT,    optimizer.eps,                       "1e-8",                         ">0",                                "adamw",            "",                                                          "added to the root of the second moment")                                   \
    X(LR_SCHEDULER,      "lr_scheduler.name",                  WORD,     lr_scheduler.name,                   "constant",                     "constant step linear cosine",       "",                 "",                                                          "how the learning rate changes")                                            \
    X(WARMUP,            "lr_scheduler.warmup_steps",          INTERVAL, lr_scheduler.warmup,                 "0",                            "",                                  "",                 "warmup lr_warmup_steps",                                    "linear rise from 0 at the start")                                          \
    X(STEP_SIZE,         "lr_scheduler.step_size",             INTERVAL, lr_scheduler.step,                   "0",                            "",                                  "step",             "",                                                          "steps between two drops")                                                  \
    X(GAMMA,             "lr_scheduler.gamma",                 FLOAT,    lr_scheduler.gamma,                  "0.1",                          "(0,1]",                             "step",             "",                                                          "factor of a drop")                                                         \
    X(MIN_LR_RATIO,      "lr_scheduler.min_lr_ratio",          FLOAT,    lr_scheduler.min_lr_ratio,           "0",                            "[0,1]",                             "linear cosine",    "",                                                          "the last learning rate as a share of the first")                           \
    X(BACKEND,           "parallelism.backend",                NAME,     parallelism.backend,                 "auto",                         "auto cpu cuda ref",                 "",                 "device",                                                    "where kernels run; auto: cuda where there is a GPU, else cpu")             \
    X(PIPELINE,          "parallelism.pipeline_parallel_size", INT,      parallelism.pipeline_parallel_size,  "1",                            "[1,1024]",                          "",                 "pp pp_size pipeline_parallel_degree pipeline_model_parallel_size", "stages the model is cut into")                               \
    X(VIRTUAL,           "parallelism.virtual_pipeline_stages",INT,      parallelism.virtual_stages,          "1",                            "[1,64]",                            "",                 "virtual_stages vpp vpp_size virtual_pipeline_model_parallel_size num_virtual_stages", "stages that each rank of a pipeline runs")       \
    X(REPLICAS,          "parallelism.data_parallel_size",     INT,      parallelism.data_parallel_size,      "1",                            "[1,1024]",                          "",                 "dp dp_size replicas data_parallel_degree",                  "replicas of each stage")                                                   \
    X(STAGES,            "parallelism.stages",                 STAGES,   parallelism.stage,                   DML_SPEC_NONE,                  "",                                  "",                 "placement",                                                 "instead of the three above, for each stage in order: {workers: [0, 1], shares: [1, 3]}") \
    X(SCHEDULE,          "parallelism.schedule",               SCHEDULE, parallelism.schedule,                "1f1b",                         "",                                  "",                 "pp_engine pipeline_parallel_schedule",                      "order of micro-batches in the pipeline")                                   \
    X(SPLIT,             "parallelism.split",                  SPLIT,    parallelism.split,                   "auto",                         ">=1",                               "",                 "",                                                          "auto: equal work; uniform: equal counts; or layers per stage")             \
    X(THREADS,           "parallelism.threads_per_worker",     INT,      parallelism.threads_per_worker,      "0",                            "[0,4096]",                          "",                 "num_threads",                                               "0: cores / workers")                                                       \
    X(WORKERS_PER_DEVICE,"parallelism.workers_per_device",    INT,      parallelism.workers_per_device,      "1",                            "[1,64]",                            "",                 "",                                                          "worker r runs on GPU r / workers_per_device; more than 1 is for tests, and slow")           \
    X(MEMORY,            "parallelism.memory",                 BYTES,    parallelism.memory_bytes,            "0",                            "",                                  "",                 "memory_per_worker device_memory",                           "most a worker may hold, such as 80GB; 0: no limit")                                        \
    X(LINK_LATENCY,      "parallelism.link.latency",           TIME,     parallelism.link_latency_ns,         "0s",                           "",                                  "",                 "",                                                          "emulated on the CPU transports; 0: none")                                  \
    X(LINK_BANDWIDTH,    "parallelism.link.bandwidth",         RATE,     parallelism.link_bytes_per_s,        "0",                            "",                                  "",                 "",                                                          "emulated on the CPU transports; 0: no limit")                              \
    X(TIMEOUT,           "parallelism.timeout",                TIME,     parallelism.timeout_ns,              "60s",                          ">0",                                "",                 "",                                                          "deadline of one wait between workers")                                     \
    X(NVLS,              "comm.nvls",                         WORD,     comm.nvls,                           "auto",                         "auto on off",                       "",                 "",                                                          "sums in the NVSwitch; off costs bandwidth there, but recovery is safe only without")        \
    X(OVERLAP,           "comm.overlap",                        BOOL,    comm.overlap,                        "true",                         "",                                  "",                 "",                                                          "gradients are reduced bucket by bucket under the last backward; false: at once after it")\
    X(FIRST_BUCKET,      "comm.first_bucket_bytes",             BYTES,   comm.first_bucket_bytes,             "1MiB",                         ">=1",                               "",                 "",                                                          "the first bucket takes layers, the last ones first, until it has this much") \
    X(BUCKET,            "comm.bucket_bytes",                   BYTES,   comm.bucket_bytes,                   "25MiB",                        ">=1",                               "",                 "bucket_cap",                                                "the others; larger ones pay fewer latencies, smaller ones overlap more")     \
    X(LOG_INTERVAL,      "logging.interval",                   LONG,     logging.interval,                    "10",                           ">=1",                               "",                 "log_interval log_freq logging_steps",                       "steps between console lines")                                              \
    X(JSONL,             "logging.jsonl",                      BOOL,     logging.jsonl,                       "true",                         "",                                  "",                 "",                                                          "write metrics.jsonl")                                                      \
    X(CONSOLE,           "logging.console",                    WORD,     logging.console,                     "auto",                         "auto line bar quiet",               "",                 "",                                                          "auto: a bar on a terminal, else lines")

/* Which key the words in `only` and in defaults speak of. */
#define DML_SPEC_SELECTOR_LIST(X)                                                                                        \
    X("model.",        MODEL_TYPE)                                                                                       \
    X("data.",         FORMAT)                                                                                           \
    X("optimizer.",    OPTIMIZER)                                                                                        \
    X("lr_scheduler.", LR_SCHEDULER)

/* Other names of sections. */
#define DML_SPEC_SECTION_ALIAS_LIST(X)                                                                                   \
    X("dataset",     "data")                                                                                             \
    X("lr_schedule", "lr_scheduler")                                                                                     \
    X("optim",       "optimizer")

/* What people say for something that has another name here; for "did you mean". */
#define DML_SPEC_SYNONYM_LIST(X)                                                                                         \
    X("gpu",         "cuda")                                                                                             \
    X("adam",        "adamw")                                                                                            \
    X("dense",       "linear")                                                                                           \
    X("fc",          "linear")                                                                                           \
    X("conv",        "conv2d")                                                                                           \
    X("bn",          "batch_norm")                                                                                       \
    X("batchnorm2d", "batch_norm")                                                                                       \
    X("maxpool",     "max_pool2d")                                                                                       \
    X("avgpool",     "avg_pool2d")                                                                                       \
    X("block",       "residual")                                                                                         \
    X("float16",    "fp16")                                                                                              \
    X("half",       "fp16")                                                                                              \
    X("bfloat16",   "bf16")                                                                                              \
    X("float32",    "fp32")

/*    kind         option       type   field                  default         allowed                     aliases             meaning                              */
#define DML_LAYER_OPTION_LIST(X)                                                                                         \
    X(LINEAR,      "out",       INT,   out,                   DML_SPEC_NONE,  ">=1",                      "out_features",     "features")                          \
    X(LINEAR,      "bias",      BOOL,  bias,                  "true",         "",                         "",                 "add one per feature")               \
    X(CONV2D,      "out",       INT,   out,                   DML_SPEC_NONE,  ">=1",                      "out_channels",     "channels")                          \
    X(CONV2D,      "kernel",    SIZE,  conv.kernel,           DML_SPEC_NONE,  ">=1",                      "kernel_size",      "window")                            \
    X(CONV2D,      "stride",    SIZE,  conv.stride,           "1",            ">=1",                      "",                 "")                                  \
    X(CONV2D,      "padding",   SIZE,  conv.pad,              "0",            ">=0",                      "pad",              "zeros on each side")                \
    X(CONV2D,      "dilation",  SIZE,  conv.dilation,         "1",            ">=1",                      "",                 "distance between taps")             \
    X(CONV2D,      "groups",    INT,   conv.groups,           "1",            ">=1",                      "",                 "channels are cut into groups")      \
    X(CONV2D,      "bias",      BOOL,  bias,                  "true",         "",                         "",                 "add one per channel")               \
    X(MAX_POOL2D,  "kernel",    SIZE,  pool.kernel,           DML_SPEC_NONE,  ">=1",                      "kernel_size",      "window")                            \
    X(MAX_POOL2D,  "stride",    SIZE,  pool.stride,           "0",            ">=0",                      "",                 "0: the kernel's size")              \
    X(MAX_POOL2D,  "padding",   SIZE,  pool.pad,              "0",            ">=0",                      "pad",              "never wins a maximum")              \
    X(AVG_POOL2D,  "kernel",    SIZE,  pool.kernel,           "0",            ">=0",                      "kernel_size",      "0: the whole image")                \
    X(AVG_POOL2D,  "stride",    SIZE,  pool.stride,           "0",            ">=0",                      "",                 "0: the kernel's size")              \
    X(AVG_POOL2D,  "padding",   SIZE,  pool.pad,              "0",            ">=0",                      "pad",              "zeros on each side")                \
    X(AVG_POOL2D,  "count_include_pad", BOOL, pool.count_include_pad, "true", "",                         "",                 "padding counts in the average")     \
    X(BATCH_NORM,  "momentum",  FLOAT, momentum,              DML_SPEC_NONE,  "[0,1]",                    "",                 "default: model.batch_norm's")       \
    X(BATCH_NORM,  "eps",       FLOAT, eps,                   DML_SPEC_NONE,  ">0",                       "",                 "default: model.batch_norm's")       \
    X(BATCH_NORM,  "stats",     FLAG,  per_micro_batch,       DML_SPEC_NONE,  "deferred per_micro_batch", "",                 "default: model.batch_norm's")       \
    X(BATCH_NORM,  "zero_init", BOOL,  zero_init,             "false",        "",                         "",                 "the weight starts at 0, not at 1")  \
    X(GELU,        "approximate", FLAG, tanh_form,             "none",         "none tanh",                "",                 "tanh: a cheaper form")             \
    X(DROPOUT,     "rate",      FLOAT, rate,                  "0.5",          "[0,1)",                    "p",                "share of values set to 0")          \
    X(DELAY,       "forward",   TIME,  ns[0],                 "0s",           "",                         "",                 "time of a forward")                 \
    X(DELAY,       "input",     TIME,  ns[1],                 "0s",           "",                         "",                 "time of an input gradient")         \
    X(DELAY,       "weight",    TIME,  ns[2],                 "0s",           "",                         "",                 "time of a weight gradient")

/* The option that a bare value stands for: `linear: 10` is `linear: {out: 10}`. */
#define DML_LAYER_BARE_LIST(X)                                                                                           \
    X(LINEAR,     "out")                                                                                                 \
    X(MAX_POOL2D, "kernel")                                                                                              \
    X(AVG_POOL2D, "kernel")                                                                                              \
    X(DROPOUT,    "rate")
/* clang-format on */

#endif
