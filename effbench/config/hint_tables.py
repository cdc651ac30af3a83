"""Other tools' names for our groups, choices, keys, values and verbs, as data. `hints` looks them up."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Override to suggest -> other tools' keys with that meaning, in lower case without _ and -; {} is the given value.
# 'section.key' is tried before 'key', which matches in any section.
KEYS = {
    "trainer.max_epochs={}": (
        "epochs epoch nepochs numepochs numtrainepochs maxepochs maxepoch totalepochs trainepochs e"
    ),
    "trainer.max_steps={}": "steps maxsteps numsteps trainsteps iters maxiters iterations",
    "trainer.max_time={}": "maxtime timelimit",
    "trainer.precision=16-mixed": "amp fp16 half mixedprecision",
    "trainer.precision=bf16-mixed": "bf16",
    "trainer.precision=32-true": "fp32",
    "trainer.precision={}": "precision dtype",
    "trainer.gradient_clip_val={}": (
        "gradclip clipgrad clip gradclipval gradclipnorm clipgradnorm maxgradnorm maxnorm clipnorm gradientclipping"
    ),
    "trainer.accumulate_grad_batches={}": (
        "accumulate gradaccum accumsteps gradaccumsteps gradientaccumulationsteps accumulationsteps"
    ),
    "trainer.log_every_n_steps={}": "loginterval logfreq printfreq",
    "trainer.check_val_every_n_epoch={}": "evalinterval valinterval evalevery",
    "trainer.compile={}": "torchcompile compile",
    # Keys of Lightning's Trainer, here and wherever `trainer.` stands before a name.
    "debug=smoke": "trainer.fastdevrun fastdevrun trainer.numsanityvalsteps dryrun smoke",
    "trainer.limit_train_batches={} augment=none": "trainer.overfitbatches",
    "checkpoint.save_top_k=0 checkpoint.save_last=false (which saves nothing)": (
        "trainer.enablecheckpointing trainer.checkpointcallback"
    ),
    "2>LOG: the bar is on stderr, and only if that is a terminal": (
        "trainer.enableprogressbar trainer.progressbarrefreshrate"
    ),
    "effbench summary, with the same overrides": "trainer.enablemodelsummary",
    "trainer.check_val_every_n_epoch=N (whole epochs; checkpoint.every_n_steps=N saves between)": (
        "trainer.valcheckinterval"
    ),
    "callbacks={} (early_stopping=on|off, checkpoint.save_top_k=N and ema=on are groups of their own)": (
        "trainer.callbacks callback hooks"
    ),
    "logger=csv|tensorboard|wandb|mlflow": "trainer.logger",
    "hydra.run.dir={}": (
        "trainer.defaultrootdir trainer.weightssavepath output out outputdir outdir savedir logdir workdir rundir o"
    ),
    "trainer.on_nonfinite=stop": "trainer.detectanomaly",
    "device.channels_last=true (kernels are chosen by torch)": "trainer.benchmark",
    "early_stopping=off trainer.max_epochs={}": "trainer.minepochs",
    "early_stopping=off trainer.max_steps={}": "trainer.minsteps",
    "torchrun --nproc_per_node=N -m effbench train …": "trainer.strategy distributed ddp strategy",
    "torchrun --nnodes={} --nproc_per_node=N -m effbench train …": "trainer.numnodes",
    "torchrun --nproc_per_node={} -m effbench train … (or device=cpu|cuda for one)": "trainer.devices",
    "torchrun --nproc_per_node={} -m effbench train …": "trainer.numprocesses ngpus devices nprocpernode",
    "device={}": "trainer.accelerator accelerator",
    "device=cuda": "trainer.gpus gpus gpu cuda usecuda usegpu",
    "device=auto": "trainer.autoselectgpus",
    "resume=RUN": "trainer.resumefromcheckpoint trainer.ckptpath",
    "-m optimizer.lr=1e-4,3e-4,1e-3,3e-3": "trainer.autolrfind",
    "trainer.on_oom=halve": "trainer.autoscalebatchsize",
    "ema=on": "trainer.stochasticweightavg swa",
    "effbench report RUN (which shows where the time went)": "trainer.profiler",
    "model=mlp|vit_tiny|swin_micro (batch norm counts each process's images by themselves)": "trainer.syncbatchnorm",
    "optimizer.lr={}": "lr learningrate lrate baselr initlr maxlr lr0 eta",
    "optimizer.weight_decay={}": "wd weightdecay l2",
    "optimizer=sgd optimizer.momentum={}": "momentum",
    "optimizer=sgd optimizer.nesterov={}": "nesterov",
    "optimizer.betas={}": "betas",
    # The other beta is that of Adam (arXiv:1412.6980).
    "optimizer.betas=[{},0.999]": "beta1",
    "optimizer.betas=[0.9,{}]": "beta2",
    "optimizer.eps={}": "eps",
    "optimizer={}": "optim opt optimiser optimizername",
    "scheduler={}": "sched schedule lrscheduler lrschedule",
    "scheduler.warmup={}": "warmup warmupsteps numwarmupsteps",
    "scheduler.warmup='{} epochs'": "warmupepochs",
    "scheduler.warmup=5% (of the run)": "warmupratio",
    # The other tools' value is a learning rate, ours is a factor: it cannot be taken over.
    "scheduler.min_factor=0.01 (a share of optimizer.lr)": "minlr lrmin",
    "scheduler.gamma={}": "gamma",
    "scheduler.step_size='{} epochs'": "stepsize",
    "data.batch_size={}": "batch bs batchsize b trainbatchsize perdevicetrainbatchsize",
    "data.eval_batch_size={}": "evalbatchsize valbatchsize testbatchsize",
    "data={}": "dataset datasets datasetname datamodule ds",
    "data=image_folder data.root={}": "datadir datapath dataroot datafolder datasetpath folder root",
    "data.image_size={}": "imagesize imgsize imgsz inputsize resolution size",
    "data.context={}": "blocksize seqlen sequencelength contextlength contextsize contextwindow maxseqlen",
    "data.num_workers={}": "workers numworkers nworkers j",
    "data.val_fraction={}": "valsplit valfraction validationsplit",
    "data.test_fraction={}": "testsplit",
    "data.drop_last={}": "droplast",
    "data.root=DIR (the classes are its folders; with data=synthetic, data.num_classes={})": "numclasses",
    "model={}": "arch architecture net network backbone modelname m",
    "model.dropout={}": "dropout droprate",
    "model.pretrained=FILE": "pretrained finetune",
    "model.pretrained={}": "weights",
    "model.freeze=[PATTERN]": "freeze",
    "device.channels_last={}": "channelslast",
    "device=cpu": "cpu nocuda",
    "device.threads={}": "threads numthreads nthreads",
    "trainer.deterministic={}": "deterministic",
    "seed={}": "randomseed manualseed rngseed s",
    "loss.label_smoothing={}": "labelsmoothing smoothing",
    "loss.class_weights={}": "classweights",
    "loss={}": "criterion",
    "early_stopping.patience={}": "patience",
    "early_stopping=on": "earlystop",
    "augment.mixup_alpha={}": "mixup",
    "augment.cutmix_alpha={}": "cutmix",
    "augment={}": "aug augmentation augmentations transforms",
    "ema=on ema.decay={}": "emadecay",
    "hydra.run.dir=outputs/{}": "name runname expname experimentname",
    "resume={}": "ckpt ckptpath resumefrom resumefromcheckpoint",
    "logger=wandb": "wandb",
    "logger=tensorboard": "tensorboard",
    "logger=mlflow": "mlflow",
    "logger.project={}": "project",
    "logger={}": "log",
    "recipe={}": "config cfg experiment preset",
    "checkpoint.monitor={}": "monitor",
    "debug=smoke (or, of a finished run: effbench eval RUN)": "test",
    "effbench eval RUN": "evaluate eval",
    "checkpoint.save_top_k={}": "topk",
}

_OTHER = "optimizer=adamw optimizer._target_={} ~optimizer.{}"  # for classes with fewer options than adamw
_TIMM = "(with timm: pip install 'effbench[timm]')"
# torch's schedulers have no warm-up, so both keys of conf/scheduler/_base.yaml are deleted.
_SCHEDULER = (
    "scheduler=constant scheduler._target_=torch.optim.lr_scheduler.{} ~scheduler.warmup ~scheduler.warmup_start"
)
# group -> override to suggest -> other tools' choices, in lower case, letters and digits only.
CHOICES: Mapping[str, Mapping[str, str]] = {
    "model": {
        "model=resnet18": "resnet",
        "model=mobilenet": "mobilenetv3",
        "model=mobilenet model.arch=mobilenet_v3_small": "mobilenetv3small",
        "model=mobilenet model.arch=mobilenet_v3_large": "mobilenetv3large",
        "model=mobilenet model.arch=mobilenet_v2": "mobilenetv2",
        "model=vit_tiny": "vit vitti vitt visiontransformer",
        "model=vit_b": "vitbase",
        "model=vit_l": "vitlarge",
        "model=vit_tiny model.dim=384 model.heads=6 model.mlp_dim=1536": "vitsmall vits",
        "model=swin": "swintiny swintransformer",
        "model=swin model.arch=swin_s": "swinsmall",
        "model=swin model.arch=swin_b": "swinbase",
        "model=cnn": "convnet simplecnn lenet",
        # An MLP without hidden layers is a linear model.
        "model=mlp model.hidden=[]": "linear logistic logreg",
        "model=ds_cnn": "depthwise separable",
        "model=mlp": "perceptron",
        "model=torchvision model.arch=efficientnet_b0": "efficientnet",
        "model=torchvision model.arch=convnext_tiny": "convnext",
        "model=torchvision model.arch=densenet121": "densenet",
        "model=torchvision model.arch=vgg16": "vgg",
    },
    "optimizer": {
        "optimizer=sgd": "momentum nesterov msgd",
        "optimizer=adam": "fusedadam",
        "optimizer=adamw": "fusedadamw",
        "optimizer=nadamw (NAdam with decoupled weight decay)": "nadam",
        # It averages the weights instead of lowering the learning rate (arXiv:2405.15682).
        "optimizer=schedule_free scheduler=constant scheduler.warmup=5%": "adamwschedulefree schedulefreeadamw",
        _OTHER.format("torch.optim.RAdam", "fused"): "radam",
        _OTHER.format("torch.optim.Adamax", "fused"): "adamax",
        # lr is torch's default for the class: those of adamw's file are far from it.
        _OTHER.format("torch.optim.Adagrad", "betas") + " optimizer.lr=0.01": "adagrad",
        _OTHER.format("torch.optim.Adadelta", "fused") + " ~optimizer.betas optimizer.lr=1": "adadelta",
        _OTHER.format("torch.optim.Adafactor", "fused")
        + " ~optimizer.betas ~optimizer.eps optimizer.lr=0.01": "adafactor",
        "optimizer=muon": "muonwithauxadam muonadamw singledevicemuon",
        _OTHER.format("timm.optim.Lamb", "fused") + f" {_TIMM}": "lamb",
        _OTHER.format("timm.optim.Lars", "fused") + f" ~optimizer.betas optimizer.lr=1 {_TIMM}": "lars",
        _OTHER.format("timm.optim.AdaBelief", "fused") + f" {_TIMM}": "adabelief",
        _OTHER.format("timm.optim.AdamP", "fused") + f" {_TIMM}": "adamp",
        _OTHER.format("timm.optim.NvNovoGrad", "fused") + f" {_TIMM}": "novograd nvnovograd",
    },
    "scheduler": {
        "scheduler=cosine": "cosineannealing cosineannealinglr cosinelr cos cosinewithwarmup warmupcosine",
        "scheduler=one_cycle": "onecyclelr 1cycle",
        "scheduler=step": "steplr multistep multisteplr",
        "scheduler=exponential": "exp exponentiallr",
        "scheduler=plateau": "reducelronplateau reduceonplateau",
        _SCHEDULER.format("LinearLR") + " +scheduler.total_iters=total +scheduler.start_factor=1.0": "linear linearlr",
        _SCHEDULER.format("PolynomialLR") + " +scheduler.total_iters=total": "poly polynomial polynomiallr",
        _SCHEDULER.format("CosineAnnealingWarmRestarts") + " '+scheduler.T_0=\"4 epochs\"'": (
            "cosinewarmrestarts cosineannealingwarmrestarts warmrestarts sgdr"
        ),
        "scheduler=constant": "none null off false constantlr fixed",
    },
    "data": {
        "data=fashion_mnist": "fashion fmnist",
        # Same sizes: 28 x 28 px, gray, 10 classes.
        "data=fashion_mnist (MNIST itself is not there)": "mnist",
        "data=cifar10": "cifar",
        "data=image_folder data.root=DIR": "imagenet imagenet1k images folder custom",
        "data=image_folder data.root=DIR, with a folder a class": "cifar100",
        "data=synthetic": "fake fakedata random toy",
    },
    "device": {
        "device=cuda": "gpu 0 1 nvidia",
        "device=cuda (CUDA_VISIBLE_DEVICES=0 chooses the first)": "cuda0",
        "device=cuda, with CUDA_VISIBLE_DEVICES=1": "cuda1",
        "device=cpu (only CPUs and CUDA are supported)": "mps tpu xpu",
        # torch built for ROCm calls its device cuda.
        "device=cuda (torch's name for it)": "rocm",
    },
    "augment": {
        "augment=none": "off false null no",
        "augment=basic": "on true default light",
        "augment=strong": "heavy randaugment autoaugment trivialaugment",
        "augment=basic augment.mixup_alpha=0.2": "mixup",
        "augment=basic augment.cutmix_alpha=1.0": "cutmix",
    },
    "loss": {
        "loss=cross_entropy": "ce crossentropyloss xent nll nllloss",
        "loss=focal": "focalloss sigmoidfocal",
        "task=multilabel": "bcewithlogits bcewithlogitsloss bceloss binarycrossentropy",
        "task=regression": "mseloss l2 meansquarederror",
        "task=regression loss._target_=torch.nn.modules.loss.L1Loss": "l1 l1loss mae",
        "task=regression loss._target_=torch.nn.modules.loss.SmoothL1Loss": "huber huberloss smoothl1",
        "loss.label_smoothing=0.1": "labelsmoothing",
    },
    "ema": {
        "ema=on": "true yes 1",
        "ema=off": "false no 0 none null",
    },
    "early_stopping": {
        "early_stopping=on": "true yes",
        "early_stopping=off": "false no none null",
    },
    "checkpoint": {
        "checkpoint.save_top_k=0 checkpoint.save_last=false": "off false none null",
    },
    "logger": {
        "logger=tensorboard": "tb",
        "logger=wandb": "weightsandbiases wb",
        # metrics.csv is always written: csv is the logger that adds nothing to it.
        "logger=csv": "none null off false",
    },
    "debug": {
        "debug=smoke": "true on yes fastdevrun",
        "debug=off": "false none",
    },
    "trainer": {
        "device=cuda": "gpu",
        "device=cpu": "cpu",
        "torchrun --nproc_per_node=N -m effbench train …": "ddp",
    },
}

# group -> why there is no such choice -> its names, in the same form.
MISSING: Mapping[str, Mapping[str, str]] = {
    "optimizer": {
        "It takes the gradient more than once a step, and the loop takes it once: it does not fit yet.": (
            "sam asam gsam lbfgs adahessian"
        ),
        "It wraps another optimizer, which one class and its options cannot name: it does not fit yet.": "lookahead",
        "Install schedulefree and write optimizer=sgd optimizer._target_=schedulefree.SGDScheduleFree "
        "~optimizer.nesterov ~optimizer.fused scheduler=constant allow_targets=[schedulefree].": "sgdschedulefree",
        "A class of an installed package that steps once a gradient is used by optimizer=adamw "
        "optimizer._target_=PACKAGE.CLASS allow_targets=[PACKAGE], less the options that it does not take "
        "(~optimizer.fused).": (
            "ranger shampoo soap sophia prodigy dadaptation dadaptadam galore apollo came adopt mars madgrad laprop "
            "sgdp sgdw adabound yogi lomo adam8bit adamw8bit pagedadamw"
        ),
    },
    "loss": {
        "There are cross_entropy, focal, bce (for task=multilabel) and mse (for task=regression), and any class of "
        "torch.nn.modules.loss as loss._target_. A loss of your own is one class and one YAML (CONTRIBUTING.md).": (
            "dice triplet contrastive hinge arcface"
        ),
    },
}

# Names of torchvision.models: first those with a file in conf/model, then all others.
ARCHS = (
    (
        r"resnet(18|34|50|101|152)|wide_resnet(50|101)_2|resnext(50_32x4d|101_32x8d|101_64x4d)",
        "model=resnet18 model.arch={}",
    ),
    (r"mobilenet_v(2|3_(small|large))", "model=mobilenet model.arch={}"),
    (r"swin_[tsb]", "model=swin model.arch={}"),
    (
        r"alexnet|convnext_(tiny|small|base|large)|densenet(121|161|169|201)|efficientnet_(b[0-7]|v2_[sml])|googlenet"
        r"|inception_v3|maxvit_t|mnasnet(0_5|0_75|1_0|1_3)|regnet_[xy]_(\d+|\d_\d)[gm]f|shufflenet_v2_x\d_\d"
        r"|squeezenet1_[01]|swin_v2_[tsb]|vgg1[1369](_bn)?|vit_([bl]_(16|32)|h_14)",
        "model=torchvision model.arch={}",
    ),
)
# Beginnings of timm's names, without those of torchvision.
TIMM = re.compile(
    r"[\w.]+\.[a-z]\w*|(tf_|vit_|deit|beit|eva|cait|xcit|convnext|convnextv2|efficientnet|mobilenetv[1-4]|mixer|resmlp"
    r"|regnet|res2n|resnest|resnetv2|resnet\d+[a-z]|seresn|ecaresn|densenet|dla|ghostnet|hrnet|levit|maxvit|coatnet|mvit|nfnet|dm_nfnet"
    r"|pit_|poolformer|pvt|repvgg|rexnet|swin|tiny_vit|tinynet|twins|volo|xception|lcnet|fastvit|edgenext|mobileone"
    r"|mobilevit|efficientvit|focalnet|davit|gcvit|hiera|samvit|inception|nasnet|pnasnet|cspresn|cspdarknet|darknet"
    r"|hardcorenas|mnasnet|spnasnet|fbnet|semnasnet|selecsls|skresn|sequencer|crossvit|convmixer|convit|coat_)[\w.]+"
)

# key -> value to suggest -> other tools' names for it.
VALUES: Mapping[str, Mapping[str, str]] = {
    "trainer.precision": {
        # Lightning's numbers, torch's dtypes and the words of other command lines.
        "16-mixed": "16 fp16 half float16 amp mixed true",
        "bf16-mixed": "bf16 bfloat16",
        "32-true": "32 fp32 float32 full 64 false",
    },
    "loss.class_weights": {"balanced": "auto inverse"},
    "device.name": {"cuda": "gpu cuda0 nvidia", "cpu": "mps"},
    "trainer.gradient_clip_algorithm": {"norm": "l2 global_norm", "value": "val elementwise"},
}
VERBS = {
    "train": "fit run start learn",
    "train -m": "sweep multirun hparams tune search",
    "train resume=RUN": "resume continue",
    "eval": "test evaluate validate val",
    "predict": "infer inference classify",
    "export": "convert onnx",
    "report": "compare plot html table",
    "recipe ls": "list ls",
    "summary": "profile info describe cost",
    "env": "doctor version versions",
    "bench": "benchmark latency throughput deploy speed",
}
