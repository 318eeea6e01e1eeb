"""What a paper or its code states, with its source: the values that conf/ is to have at scale=paper.

Sources: arXiv texts by section; code by file (ftramer/ensemble-adv-training 819ad7c, MadryLab/mnist_challenge 3ee3643,
MadryLab/cifar10_challenge f15682d, TF-slim). "ours" stands where neither says anything, and what was taken instead.
"""

from typing import Any

Row = tuple[str, str, Any, str]
"""overrides, key path, value (of a mapping: of these keys of it), source"""

# ---- a composition of all the options of GROUPS, each as <group>.<option>; a static source has its trainer's own arch

ALL = "all"
CIFAR = "dataset=cifar10 scale=paper trainer=madry_cifar arch=wide_resnet suite=madry_cifar attack=pgd_7"

# ---- attacks

FGSM = {
    **{"name": "gradient", "eps": 0.3, "steps": 1, "step_size": None, "step_share": None, "step": "sign"},
    **{
        "loss": "cross_entropy",
        "kappa": 0.0,
        "label": True,
        "start": "none",
        "start_share": 0.0,
        "clip_start": True,
        "momentum": 0.0,
    },
    **{"restarts": 1, "keep": "last"},
}
FGSM_PRED = {**FGSM, "label": "predicted"}
STEP_LL = {**FGSM, "label": "least_likely"}
ITER_BASIC = {**FGSM, "steps": "kurakin", "step_size": 1 / 255}
ITER_LL = {**ITER_BASIC, "label": "least_likely"}
RAND_FGSM = {**FGSM, "start": "sign", "start_share": 0.05 / 0.3}
R_FGSM = {**FGSM, "start": "uniform", "start_share": 1.0}
I_FGSM = {**FGSM, "steps": 10}
MI_FGSM = {**I_FGSM, "momentum": 1.0}
PGD = {**FGSM, "steps": 40, "step_share": 1 / 30, "start": "uniform", "start_share": 1.0}
PGD_100 = {**PGD, "steps": 100}
PGD_7 = {**PGD, "steps": 7, "step_share": 2 / 8}
PGD_20 = {**PGD_7, "steps": 20}
PGD_TARGETED = {**PGD, "label": "random"}
CW = {**PGD, "loss": "margin", "kappa": 0.0}
CW_PLUS = {**CW, "kappa": 50.0}
PGD_CW = {**CW_PLUS, "steps": 30, "step_share": 0.1}
SIGN_NOISE = {"name": "noise", "eps": 0.3, "distribution": "sign"}
NORMAL_NOISE = {**SIGN_NOISE, "distribution": "truncated_normal"}

ATTACKS: list[Row] = [
    (ALL, "attack.fgsm", FGSM, "Goodfellow et al. 2015; Tramèr 2.2, eps 0.3 3.1; true label: simple_eval.py"),
    (ALL, "attack.fgsm_pred", FGSM_PRED, "Kurakin, appendix A; Tramèr 2.3: the model's prediction; attack_utils.py"),
    (ALL, "attack.fast_entropy", {**FGSM, "loss": "entropy"}, "Kurakin, appendix A"),
    (ALL, "attack.fast_grad_l2", {**FGSM, "step": "l2"}, "Kurakin, appendix A: unit L2 norm times eps"),
    (ALL, "attack.fast_grad_linf", {**FGSM, "step": "linf"}, "Kurakin, appendix A: unit L-infinity norm times eps"),
    (ALL, "attack.step_ll", STEP_LL, "Kurakin 2.2"),
    (ALL, "attack.step_rnd", {**FGSM, "label": "random"}, "Kurakin 2.2"),
    (ALL, "attack.iter_basic", ITER_BASIC, "Kurakin 2.2: alpha = 1, min(eps + 4, 1.25 eps) iterations"),
    (ALL, "attack.iter_ll", ITER_LL, "Kurakin 2.2: as the basic method"),
    (ALL, "attack.rand_fgsm", RAND_FGSM, "Tramèr 4: alpha 0.05 of 0.3, then eps - alpha; clip: simple_eval.py"),
    (
        *(ALL, "attack.rand_step_ll", {**RAND_FGSM, "label": "least_likely", "start_share": 0.5, "clip_start": False}),
        "Tramèr 4, ImageNet: alpha 8/256 of 16/256; no clip: eval_on_adversarial.py",
    ),
    (ALL, "attack.r_fgsm", R_FGSM, "Kariyappa 4.1: uniform in +-eps, then FGSM"),
    (ALL, "attack.i_fgsm", I_FGSM, "Tramèr Table 4: k = 10, steps eps / k 2.2; Kariyappa 4.1: 10 steps of eps / 10"),
    (ALL, "attack.mi_fgsm", MI_FGSM, "Kariyappa 4.1: as I-FGSM, decay 1.0; equation 5"),
    (ALL, "attack.pgd", PGD, "Madry 5: 40 steps of 0.01, eps 0.3; mnist_challenge pgd_attack.py: start clipped"),
    (ALL, "attack.pgd_100", PGD_100, "Madry Table 1; its step size is ours: that of 40 steps"),
    (ALL, "attack.pgd_7", PGD_7, "Madry 5: 7 steps of 2, eps 8"),
    (ALL, "attack.pgd_20", PGD_20, 'Madry 5: 20 steps "with the same settings"'),
    (ALL, "attack.pgd_targeted", PGD_TARGETED, "Madry Table 1: targeted; a random target is ours"),
    (ALL, "attack.cw", CW, "Madry Table 1: 40 steps on the Carlini-Wagner loss"),
    (ALL, "attack.cw_plus", CW_PLUS, "Madry Table 1: kappa 50; mnist_challenge pgd_attack.py"),
    (ALL, "attack.pgd_cw", PGD_CW, "Kariyappa 4.1: k = 50, 30 iterations; step eps / 10 is ours"),
    (ALL, "attack.sign_noise", SIGN_NOISE, "Kurakin, appendix A"),
    (ALL, "attack.normal_noise", NORMAL_NOISE, "Kurakin, appendix A: sd eps / 2 on [-eps, eps]; Kariyappa 4.1"),
    (ALL, "attack.module", {"name": "module", "eps": 0.3, "file": None, "call": None}, "the user's own"),
]

RISING = {"eps": [0.015, 0.03, 0.075, 0.15, 0.225, 0.3]}
BUDGETS = {"eps": [2 / 255, 4 / 255, 8 / 255, 16 / 255]}
SUITES: list[Row] = [
    (ALL, "suite.fgsm", {"fgsm": FGSM}, "Tramèr Table 1"),
    (ALL, "suite.one_step", {"fgsm": FGSM, "rand_fgsm": RAND_FGSM}, "Tramèr Table 2"),
    (ALL, "suite.tramer", {"fgsm": FGSM, "i_fgsm": I_FGSM, "rand_fgsm": RAND_FGSM}, "Tramèr Table 4"),
    (
        *(ALL, "suite.masking", {"rand_fgsm": {**RAND_FGSM, **RISING}, "i_fgsm": {**I_FGSM, **RISING}}),
        "Tramèr 3 and 4: masking shows in what these add to FGSM",
    ),
    (
        *(ALL, "suite.masking.fgsm", {**FGSM, **RISING}),
        "Tramèr 3.3: smaller eps can be stronger; which ones is ours",
    ),
    (
        *(ALL, "suite.masking.fgsm_unrounded", {**FGSM, **RISING, "loss": "log_cross_entropy"}),
        "Tramèr, appendix C: smoothed gradients are numerically unstable; this one is not",
    ),
    (ALL, "suite.kurakin.fgsm", {**FGSM, **BUDGETS}, "Kurakin Table 1: eps 2, 4, 8, 16"),
    (ALL, "suite.kurakin.step_ll", {**STEP_LL, **BUDGETS}, "Kurakin Table 1: eps 2, 4, 8, 16"),
    (ALL, "suite.kurakin.iter_basic", {**ITER_BASIC, **BUDGETS}, "Kurakin Table 2: eps 2, 4, 8, 16"),
    (ALL, "suite.kurakin.iter_ll", {**ITER_LL, **BUDGETS}, "Kurakin Table 2: eps 2, 4, 8, 16"),
    (ALL, "suite.all_one_step", {"fgsm": FGSM, "fgsm_pred": FGSM_PRED, "step_ll": STEP_LL}, "Kurakin, appendix A"),
    (ALL, "suite.all_one_step.fast_entropy", {**FGSM, "loss": "entropy"}, "Kurakin, appendix A"),
    (ALL, "suite.all_one_step.fast_grad_l2", {**FGSM, "step": "l2"}, "Kurakin, appendix A"),
    (ALL, "suite.all_one_step.fast_grad_linf", {**FGSM, "step": "linf"}, "Kurakin, appendix A"),
    (ALL, "suite.all_one_step.step_rnd", {**FGSM, "label": "random"}, "Kurakin, appendix A"),
    (ALL, "suite.all_one_step", {"sign_noise": SIGN_NOISE, "normal_noise": NORMAL_NOISE}, "Kurakin, appendix A"),
    (ALL, "suite.madry", {"fgsm": FGSM, "pgd": PGD, "pgd_100": PGD_100}, "Madry Table 1"),
    (ALL, "suite.madry", {"pgd_restarts": {**PGD, "restarts": 20}}, "Madry Table 1: 40 steps, 20 restarts"),
    (ALL, "suite.madry", {"pgd_100_restarts": {**PGD_100, "restarts": 20}}, "Madry Table 1: 100 steps, 20 restarts"),
    (ALL, "suite.madry", {"pgd_targeted": PGD_TARGETED, "cw": CW, "cw_plus": CW_PLUS}, "Madry Table 1"),
    (ALL, "suite.madry_cifar", {"fgsm": FGSM, "pgd_7": PGD_7, "pgd_20": PGD_20}, "Madry Table 2"),
    (
        *(ALL, "suite.madry_cifar.cw", {**CW, "steps": 30, "step_share": 2 / 8}),
        "Madry Table 2: CW, 30 steps; their size is ours: that of PGD",
    ),
    (ALL, "suite.kariyappa", {"fgsm": FGSM, "r_fgsm": R_FGSM, "i_fgsm": I_FGSM}, "Kariyappa 4.1, Table 2"),
    (ALL, "suite.kariyappa", {"mi_fgsm": MI_FGSM, "pgd_cw": PGD_CW}, "Kariyappa 4.1, Table 2"),
]

# ---- networks; their layers are pinned by their parameter counts in test_models.py

NAKED = {"normalise": {"name": "none"}}
RELU = {"activation": {"name": "relu"}, **NAKED}
LEAKY = {"activation": {"name": "leaky_relu", "slope": 0.1}, **NAKED}
RESNET = {"name": "resnet", "width": 1, "shortcut": "pad", **LEAKY}
INCEPTION = {
    **{"name": "inception_v3", "width": 1, "stem": 299, "extra_blocks": 0, "aux": True, "aux_weight": 0.4},
    **{"dropout": 0.2, "activation": {"name": "relu"}, "normalise": {"name": "symmetric"}, "batch_norm_momentum": 0.1},
}
CONV = {**LEAKY, "padding": "same"}
WIDE = {"name": "wide_resnet", "activation": LEAKY["activation"], "normalise": {"name": "per_image"}}

ARCHES: list[Row] = [
    *(
        (ALL, f"arch.mnist_{n}", {"name": f"mnist_{n}", **RELU}, "Tramèr Table 6; input [0, 1]: mnist.py")
        for n in "abcd"
    ),
    (ALL, "arch.madry_mnist", {"name": "madry_mnist", "width": 1, "hidden": 1024, **RELU}, "Madry 5: 32, 64, 1024"),
    (ALL, "arch.wide_resnet", {**WIDE, "width": 10}, "Madry 4: 160, 320, 640, per image; slope 0.1: model.py"),
    (ALL, "arch.wide_resnet_w1", {**WIDE, "width": 1}, "Madry 4: simple; cifar10_challenge model.py"),
    (ALL, "arch.conv3", {"name": "conv3", **CONV}, "Kariyappa Table 1, 4.1; slope, padding and scaling are ours"),
    (ALL, "arch.conv4", {"name": "conv4", **CONV}, "Kariyappa Table 1, 4.1; slope, padding and scaling are ours"),
    (ALL, "arch.resnet20", {**RESNET, "depth": 20}, "Kariyappa Table 1; He et al. 2016, 4.2, option A"),
    (ALL, "arch.resnet26", {**RESNET, "depth": 26}, "Kariyappa 4.1; He et al. 2016, 4.2, option A"),
    (ALL, "arch.ensemble", {"name": "ensemble", "copies": 5}, "Kariyappa 4.1: five models"),
    (ALL, "arch.ensemble", {"members": {"member": {"name": "conv3", **CONV}}}, "Kariyappa 4.1: Conv-3 on MNIST"),
    (ALL, "arch.ensemble", {"rule": "mean_probability"}, "ours, as DVERGE"),
    (ALL, "arch.ensemble_mix", {"name": "ensemble", "copies": 1, "rule": "mean_probability"}, "as arch.ensemble"),
    *((ALL, f"arch.ensemble_mix.members.resnet{n}", {**RESNET, "depth": n}, "Kariyappa 4.1: MIX") for n in (20, 26)),
    (ALL, "arch.ensemble_mix.members.conv4", {"name": "conv4", **CONV}, "Kariyappa 4.1: MIX"),
    (ALL, "arch.ensemble_mix.members.conv3_first", {"name": "conv3", **CONV}, "Kariyappa 4.1: MIX has two Conv-3"),
    (ALL, "arch.ensemble_mix.members.conv3_second", {"name": "conv3", **CONV}, "Kariyappa 4.1: MIX has two Conv-3"),
    (ALL, "arch.inception_v3", INCEPTION, "Kurakin 4, models A and B; dropout keep 0.8, auxiliary 0.4: TF-slim"),
    (ALL, "arch.inception_v3_elu", {**INCEPTION, "activation": {"name": "elu"}}, "Kurakin 4.4: model C"),
    (
        *(ALL, "arch.inception_v3_32", {**INCEPTION, "stem": 32, "aux": False, "aux_weight": 0}),
        "ours: Inception v3 on small images",
    ),
    (
        *(ALL, "arch.inception_v3_narrow", {**INCEPTION, "stem": 32, "aux": False, "aux_weight": 0, "width": 0.5}),
        "Kurakin, figure 1: the narrowest, half of Inception v3",
    ),
    (ALL, "arch.random_forest", {"name": "random_forest", "trees": 100}, "Tramèr, appendix C: 100 trees"),
    (ALL, "arch.timm", {"name": "timm", "model": "resnet18", "pretrained": False, "checkpoint": None}, "ours: any"),
    (ALL, "arch.timm", {"mean": None, "std": None}, "timm's own"),
    (ALL, "arch.module", {"name": "module", "file": None, "call": None}, "the user's own"),
    (ALL, "arch.module", {"checkpoint": None, "mean": None, "std": None}, "the user's own"),
]

# ---- trainers

ADAM = {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "decay_on": "all"}
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "decay_on": "all"}
RMSPROP = {
    **{"name": "rmsprop", "lr": 0.045, "alpha": 0.9, "momentum": 0.9, "eps": 1.0},
    **{"weight_decay": 0.0, "decay_on": "all"},
}
ADAM_MADRY = {**ADAM, "lr": 1e-4, "eps": 1e-8 / 50}
SGD_MADRY = {**SGD, "weight_decay": 2e-4, "decay_on": "weights"}
STEPS_MADRY = {"name": "step", "milestones": [0.5, 0.75], "gamma": 0.1}
CROPS_MADRY = {"shift": 2, "crop": 1.0, "flip": True}
CONSTANT = {"schedule": {"name": "constant"}}
PLAIN = {"augment": None, "clip_norm": None}
SHIFTED = {"augment": {"shift": 2, "crop": 0.9, "flip": False}, "clip_norm": None}
BESIDE = {  # as many adversarial examples beside the clean ones, equal weight
    **{"placement": "append", "count": None, "weight": 1.0, "eps_distribution": "fixed", "delay": 0},
    **{"eps_rise": None, "source_choice": "random", "label_smoothing": 0.0},
    **{"crafted_on": "augmented", "crafted_once": False, "crafting_auxiliary": True},
}
TRAMER_LOSS = {
    "name": "adversarial",
    **BESIDE,
    "passes": "two",
    "crafting_mode": "train",
    "include_self": True,
    "crafting_statistics": "kept",
}
MADRY_LOSS = {**TRAMER_LOSS, "placement": "only", "passes": "one"}
MADRY_CIFAR_LOSS = {**MADRY_LOSS, "crafting_statistics": "updated"}
STATIC = {  # D_adv: a data set of its own beside D', made once
    **BESIDE,
    "crafted_on": "original",
    "crafted_once": True,
    "passes": "one",
    "eps_distribution": "truncated_normal",
    "crafting_mode": "eval",
    "crafting_statistics": "kept",
}
KURAKIN_LOSS = {
    **{"name": "adversarial", "placement": "replace", "count": 16, "weight": 0.3, "passes": "one"},
    **{"eps_distribution": "truncated_normal", "eps_rise": None, "delay": 12.5, "label_smoothing": 0.1},
    **{"crafted_on": "augmented", "crafted_once": False, "crafting_auxiliary": True},
}
NOISY = {
    **STATIC,
    "crafted_once": False,
    "eps_distribution": "fixed",
    "include_self": True,
}  # D_noise, with every batch
TRAMER_CODE = "train.py, tf_utils.py: Adam's defaults, constant, batch 64, 6 epochs, no augmentation; paper silent"

TRAINERS: list[Row] = [
    *(
        (ALL, f"trainer.{name}.batch_norm", "local", "Kurakin 4: 32 images on each machine; of others ours")
        for name in (
            *("standard", "fgsm_adv", "rand_fgsm_adv", "ensemble_adv", "kurakin", "kurakin_nat", "madry", "madry_nat"),
            *("madry_fgsm", "madry_cifar", "madry_cifar_nat", "madry_cifar_fgsm", "standard_augmented", "static_adv"),
            *("diversity", "static_adv_diversity", "module"),
        )
    ),
    (ALL, "trainer.module.objective", {"name": "module", "file": None, "call": None}, "the user's own"),
    (ALL, "optimizer.adam", ADAM, "Kingma and Ba 2014; TensorFlow's defaults: tf_utils.py"),
    (ALL, "optimizer.adam_madry", ADAM_MADRY, "mnist_challenge config.json, train.py: 1e-4 on the sum of 50 losses"),
    (ALL, "optimizer.sgd", SGD, "He et al. 2016, 4.2; cifar10_challenge train.py: momentum 0.9"),
    (ALL, "optimizer.rmsprop", RMSPROP, "Szegedy et al. 2016, 8: decay 0.9, epsilon 1; rate 0.045: Kurakin 4"),
    (ALL, "trainer.standard.objective", {"name": "standard", "label_smoothing": 0.0}, "tf_utils.py tf_train"),
    *(
        (ALL, f"trainer.{name}", {"optimizer": ADAM, **CONSTANT, **PLAIN, "epochs": 6, "batch_size": 64}, TRAMER_CODE)
        for name in ("standard", "fgsm_adv", "rand_fgsm_adv", "ensemble_adv", "module")
    ),
    (ALL, "trainer.fgsm_adv.objective", TRAMER_LOSS, "Tramèr 3.1: 64 and 64; two passes, dropout on: tf_utils.py"),
    (ALL, "trainer.fgsm_adv.objective.attack", FGSM_PRED, "Tramèr 2.3, eps 0.3 3.1; attack_utils.py"),
    (ALL, "trainer.rand_fgsm_adv.objective", TRAMER_LOSS, "Tramèr 4; as trainer.fgsm_adv"),
    (
        *(ALL, "trainer.rand_fgsm_adv.objective.attack", {**RAND_FGSM, "label": "predicted"}),
        "Tramèr 4: RAND+FGSM in training; 2.3: on the model's prediction",
    ),
    (ALL, "trainer.ensemble_adv.objective", TRAMER_LOSS, "Tramèr 5.2: 64 and 64, at random: train_adv.py randint(4)"),
    (ALL, "trainer.ensemble_adv.objective.attack", FGSM_PRED, "Tramèr 5.2: FGSM, eps 0.3"),
    (ALL, "trainer.kurakin.objective", KURAKIN_LOSS, "Kurakin 3: m 32, k 16, lambda 0.3, |TN(0, 8)|; 4: 10k of 150k"),
    (
        *(
            ALL,
            "trainer.kurakin.objective",
            {"crafting_mode": "train", "crafting_statistics": "kept", "include_self": True, "source_choice": "random"},
        ),
        "Kurakin, algorithm 1: on the network being trained, as it trains",
    ),
    (ALL, "trainer.kurakin.objective.attack", {**STEP_LL, "eps": 16 / 255}, "Kurakin 3: step l.l., eps in [0, 16]"),
    (ALL, "trainer.kurakin_nat.objective", {"name": "standard", "label_smoothing": 0.1}, "Kurakin 4: label smoothing"),
    *(
        (
            *(ALL, f"trainer.{name}.optimizer"),
            {**RMSPROP, "lr": 0.045 / 1600 * 32, "weight_decay": 4e-5, "decay_on": "weights"},
            "Kurakin 4: RMSProp, 0.045 for 50 times 32 images, weight decay by default; its size: TF-slim",
        )
        for name in ("kurakin", "kurakin_nat")
    ),
    *(
        (
            *(ALL, f"trainer.{name}.schedule", {"name": "exponential", "gamma": 0.94, "every": 2.0}),
            "Tramèr 5.2, as Kurakin: 0.94 every two epochs",
        )
        for name in ("kurakin", "kurakin_nat")
    ),
    *(
        (
            ALL,
            f"trainer.{name}",
            {"epochs": 187, "batch_size": 32, **PLAIN},
            "Kurakin 4: 150k steps of 1,600; 3: m = 32",
        )
        for name in ("kurakin", "kurakin_nat")
    ),
    (ALL, "trainer.madry.objective", MADRY_LOSS, "Madry 2: the saddle point; mnist_challenge train.py: only PGD's"),
    (ALL, "trainer.madry.objective.attack", PGD, "Madry 5: 40 steps of 0.01, eps 0.3"),
    (ALL, "trainer.madry.optimizer", ADAM_MADRY, "mnist_challenge config.json, train.py"),
    (
        *(ALL, "trainer.madry", {"epochs": 100_000 / 1100, "batch_size": 50, **CONSTANT, **PLAIN}),
        "mnist_challenge config.json: 100,000 steps of 50 of 55,000 images",
    ),
    *(
        (
            *(ALL, f"trainer.{name}", {"optimizer": ADAM_MADRY, "epochs": 100_000 / 1100, "batch_size": 50}),
            "Madry 4, 5: natural and FGSM training, whose schedule is not stated: PGD's",
        )
        for name in ("madry_nat", "madry_fgsm")
    ),
    *(
        (
            *(ALL, f"trainer.{name}", {"optimizer": SGD_MADRY, "epochs": 80_000 / 391, "batch_size": 128}),
            "Madry 4: natural and FGSM training, whose schedule is not stated: PGD's",
        )
        for name in ("madry_cifar_nat", "madry_cifar_fgsm")
    ),
    *(
        (
            *(ALL, f"trainer.{name}", {"schedule": STEPS_MADRY, "augment": CROPS_MADRY, "clip_norm": None}),
            "Madry 4; cifar10_challenge",
        )
        for name in ("madry_cifar_nat", "madry_cifar_fgsm")
    ),
    *(
        (ALL, f"trainer.{name}", {**CONSTANT, **PLAIN}, "mnist_challenge train.py")
        for name in ("madry_nat", "madry_fgsm")
    ),
    *(
        (ALL, f"trainer.{name}.objective", {"name": "standard", "label_smoothing": 0.0}, "Madry 4: natural examples")
        for name in ("madry_nat", "madry_cifar_nat")
    ),
    (ALL, "trainer.madry_fgsm.objective", MADRY_LOSS, "Madry 2.1: every training example is replaced"),
    (ALL, "trainer.madry_cifar_fgsm.objective", MADRY_CIFAR_LOSS, "Madry 2.1: every training example is replaced"),
    *(
        (ALL, f"trainer.{name}.objective.attack", FGSM, "Madry 2.1: FGSM of the true label")
        for name in ("madry_fgsm", "madry_cifar_fgsm")
    ),
    (ALL, "trainer.madry_cifar.objective", MADRY_CIFAR_LOSS, "cifar10_challenge train.py: BN in train mode, updated"),
    (ALL, "trainer.madry_cifar.objective.attack", PGD_7, "Madry 5: 7 steps of 2, eps 8 (config.json: 10)"),
    (
        *(ALL, "trainer.madry_cifar.optimizer", SGD_MADRY),
        "cifar10_challenge config.json: 0.1, momentum 0.9, 2e-4; model.py: on kernels",
    ),
    (
        *(ALL, "trainer.madry_cifar.schedule", STEPS_MADRY),
        "cifar10_challenge config.json: 0.01 at 40,000, 0.001 at 60,000 of 80,000 steps",
    ),
    (
        *(ALL, "trainer.madry_cifar", {"epochs": 80_000 / 391, "batch_size": 128, "clip_norm": None}),
        "cifar10_challenge config.json: 80,000 steps of 128 of 50,000 images",
    ),
    (
        *(ALL, "trainer.madry_cifar.augment", CROPS_MADRY),
        "Madry 4: crops and flips; cifar10_input.py: 2 pixels of padding",
    ),
    *(
        (ALL, f"trainer.{name}", {"optimizer": ADAM, "epochs": 10}, "Kariyappa 4.1: Adam 0.001; Conv-3 10 epochs")
        for name in ("standard_augmented", "static_adv", "diversity", "static_adv_diversity")
    ),
    *(
        (ALL, f"trainer.{name}", {"batch_size": 64, **SHIFTED, **CONSTANT}, "Kariyappa 4.1: shifts, crops; sizes ours")
        for name in ("standard_augmented", "static_adv", "diversity", "static_adv_diversity")
    ),
    (
        *(ALL, "trainer.standard_augmented.objective", {"name": "standard", "label_smoothing": 0.0}),
        "Kariyappa 4.1: T_base and S, on D' alone",
    ),
    (
        *(ALL, "trainer.static_adv.objective", {"name": "adversarial", **STATIC, "include_self": False}),
        "Kariyappa 4.2: {D', D_adv}, a static model's of the original images, TN(0, eps/2)",
    ),
    (ALL, "trainer.static_adv.objective.attack", FGSM, "Kariyappa 4.2: FGSM"),
    *(
        (ALL, f"trainer.{n}.objective", {"name": "diversity", "weight": 0.5, "label_smoothing": 0.0}, "Kariyappa 4.1")
        for n in ("diversity", "static_adv_diversity")
    ),
    *(
        (ALL, f"trainer.{n}.objective", {"gradients_of": "log_odds"}, "the direction of Kariyappa's, equation 8")
        for n in ("diversity", "static_adv_diversity")
    ),
    (
        *(ALL, "trainer.diversity.objective.data", NOISY),
        "Kariyappa 4.1: {D', D_noise}, noise on the original images, sd eps/2 with eps 0.3",
    ),
    (ALL, "trainer.diversity.objective.data.attack", NORMAL_NOISE, "Kariyappa 4.1: truncated normal, eps 0.3"),
    (
        *(ALL, "trainer.static_adv_diversity.objective.data", {**STATIC, "include_self": False}),
        "Kariyappa 4.2: {D', D_adv}, a static model's of the original images, TN(0, eps/2)",
    ),
    (ALL, "trainer.static_adv_diversity.objective.data.attack", FGSM, "Kariyappa 4.2: FGSM"),
    (CIFAR, "trainer.objective.attack", {"eps": 8 / 255, "step_share": 2 / 8}, "Madry 5, CIFAR-10: 7 steps of 2 of 8"),
    (CIFAR, "suite.cw", {"eps": 8 / 255, "step_share": 2 / 8, "steps": 30}, "Madry Table 2; step as PGD's"),
    (CIFAR, "suite.pgd_20", {"eps": 8 / 255, "step_share": 2 / 8, "steps": 20}, "Madry 5, CIFAR-10: 20 steps"),
    (CIFAR, "dataset", {"train_size": 50_000, "test_size": 10_000}, "Krizhevsky 2009: all of it"),
]

# ---- models and parts of papers

RECIPE = {  # model: its arch, trainer, epochs
    **{f"mnist_{n}": (f"mnist_{n}", "standard", 6) for n in "abcd"},
    "mnist_a_adv": ("mnist_a", "fgsm_adv", 6),
    "mnist_a_adv_12": ("mnist_a", "fgsm_adv", 12),
    "mnist_a_adv_ens": ("mnist_a", "ensemble_adv", 6),
    "mnist_a_adv_ens_12": ("mnist_a", "ensemble_adv", 12),
    "mnist_a_rand": ("mnist_a", "rand_fgsm_adv", 6),
    "madry_mnist": ("madry_mnist", "madry", 100_000 / 1100),
    "madry_mnist_nat": ("madry_mnist", "madry_nat", 100_000 / 1100),
    "madry_cifar10": ("wide_resnet", "madry_cifar", 80_000 / 391),
    "madry_cifar10_nat": ("wide_resnet", "madry_cifar_nat", 80_000 / 391),
}  # Tramèr 3.1, 5.2: 6 epochs; 5.3: 12; train.py: 6 for A to D; Madry: the challenges' config.json
A, A_ADV, B = {"A": "mnist_a"}, {"A_adv": "mnist_a_adv"}, {"B": "mnist_b"}
PARTS: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {  # models, suite, source
    "table1": (A | A_ADV | B, {"fgsm": FGSM}, "Table 1: FGSM, eps 0.3"),
    "table2": (A | A_ADV | B, {"fgsm": FGSM, "rand_fgsm": RAND_FGSM}, "Table 2: eps 0.3, alpha 0.05"),
    "table4": (
        A_ADV
        | {"A_adv_ens": "mnist_a_adv_ens", "A_adv_12": "mnist_a_adv_12", "A_adv_ens_12": "mnist_a_adv_ens_12"}
        | B,
        {"fgsm": FGSM, "i_fgsm": I_FGSM, "rand_fgsm": RAND_FGSM},
        "Table 4: eps 0.3, k = 10, alpha 0.05; 6 and 12 epochs",
    ),
    "table7": (A | A_ADV, {}, "Table 7: gradient norms, no attack"),
    "table8": (A | A_ADV | B, {"fgsm": FGSM, "rand_fgsm": RAND_FGSM}, "Table 8: eps 0.3, alpha 0.05"),
    "figure1": (A | A_ADV, {"fgsm": FGSM}, "Figure 1: eps 0.3"),
    "figure2": (A_ADV | B, {"fgsm": FGSM}, "Figure 2"),
    "figure3": (A_ADV | B, {"fgsm": FGSM}, "Figure 3"),
    "appendix_c": (A | {"forest": "random_forest"}, {"fgsm": FGSM}, "appendix C: FGSM, eps 0.3"),
    "text": (
        A | A_ADV | {"A_rand": "mnist_a_rand"} | B,
        {"fgsm": {**FGSM, "eps": [0.25, 0.3, 1.0]}, "rand_fgsm": RAND_FGSM},
        "3.3: eps = 1; 4: eps - alpha = 0.25",
    ),
}
V3, V3_ADV, V4 = ({name: f"imagenet_{name}"} for name in ("v3", "v3_adv", "v4"))
STEP, RAND_STEP = ({"eps": 16 / 256, "label": "least_likely", "start_share": share} for share in (0.0, 0.5))
IMAGENET_PARTS: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {  # models, suite, source
    "table1_imagenet": (V3 | V3_ADV | V4, {"step_ll": STEP}, "Table 1: eps 16/256"),
    "table2_imagenet": (V3 | V3_ADV | V4, {"step_ll": STEP, "rand_step_ll": RAND_STEP}, "Table 2: alpha 8/256"),
    "table5": (
        V3 | V3_ADV | {n: f"imagenet_{n}" for n in ("incres_v2", "incres_v2_adv_ens")} | V4,
        {"step_ll": STEP, "rand_step_ll": RAND_STEP},
        "Table 5",
    ),
    "table7_imagenet": (V3 | V3_ADV, {}, "Table 7: gradient norms, no attack"),
    "table8_imagenet": (V3 | V3_ADV | V4, {"rand_step_ll": RAND_STEP}, "Table 8: eps 16/256, alpha 8/256"),
}
IMAGENET_MODELS = {  # of timm, with its weights: Tramèr, section 3.1 and Table 3
    "imagenet_v3": "inception_v3.tf_in1k",
    "imagenet_v3_adv": "inception_v3.tf_adv_in1k",
    "imagenet_v4": "inception_v4.tf_in1k",
    "imagenet_incres_v2": "inception_resnet_v2.tf_in1k",
    "imagenet_incres_v2_adv_ens": "inception_resnet_v2.tf_ens_adv_in1k",
    "imagenet_resnet_v2_50": "resnetv2_50.a1h_in1k",
}
IMAGENET_TRAINED = {  # networks that it trains: their frozen sources
    "imagenet_v3_adv_ens3": ("imagenet_v3", "imagenet_resnet_v2_50"),
    "imagenet_v3_adv_ens4": ("imagenet_v3", "imagenet_resnet_v2_50", "imagenet_incres_v2"),
}
MADRY_A, COPY, NAT = {"A": "madry_mnist"}, {"A_copy": "madry_mnist"}, {"A_nat": "madry_mnist_nat"}
CIFAR_A, CIFAR_COPY, CIFAR_NAT = {"A": "madry_cifar10"}, {"A_copy": "madry_cifar10"}, {"A_nat": "madry_cifar10_nat"}
PGD_20 = {**PGD_7, "steps": 20}
MADRY_PARTS: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {  # models, suite, source
    "table1": (
        MADRY_A | COPY | B,
        {
            **{"fgsm": FGSM, "pgd": PGD, "pgd_100": {**PGD, "steps": 100}, "pgd_targeted": {**PGD, "label": "random"}},
            **{"cw": {**PGD, "loss": "margin", "kappa": 0.0}, "cw_plus": {**PGD, "loss": "margin", "kappa": 50.0}},
        },
        "Table 1: eps 0.3; PGD 40 and 100, targeted, CW, CW+ with kappa 50",
    ),
    "text_mnist": (NAT, {"fgsm": FGSM}, "5: FGSM"),
    "figure1_mnist": (MADRY_A | NAT, {"pgd": PGD}, "Figure 1"),
    "figure2_mnist": (MADRY_A | NAT, {"pgd_100": {**PGD, "steps": 100}}, "Figure 2"),
    "maxima_mnist": (MADRY_A | NAT, {"pgd": {"eps": [0.075, 0.15, 0.3], "steps": 40}}, "3.1"),
    "figure3_mnist": ({}, {"fgsm": {"eps": 0.1}, "pgd": {"eps": 0.1, "steps": 40}}, "4: eps 0.1"),
    "figure4_mnist": (MADRY_A, {}, "Figure 4"),
    "table2": (
        CIFAR_A | CIFAR_COPY | CIFAR_NAT,
        {
            **{"fgsm": {"eps": 8 / 255}, "pgd_7": {"eps": 8 / 255, "steps": 7, "step_share": 2 / 8}},
            **{"pgd_20": {"eps": 8 / 255, "steps": 20, "step_share": 2 / 8}, "cw": {"steps": 30, "kappa": 0.0}},
        },
        "Table 2: eps 8, steps of 2",
    ),
    "text_cifar10": ({"A_nat_wide": "madry_cifar10_nat"}, {}, "4: natural training"),
    "figure1_cifar10": (CIFAR_A | CIFAR_NAT, {"pgd_20": {"steps": 20, "step_share": 2 / 8}}, "Figure 1"),
    "figure2_cifar10": (CIFAR_A | CIFAR_NAT, {"pgd_20": {"steps": 20, "step_share": 2 / 8}}, "Figure 2"),
    "maxima_cifar10": (CIFAR_A | CIFAR_NAT, {"pgd_20": {"eps": [2 / 255, 4 / 255, 8 / 255]}}, "3.1"),
    "figure3_cifar10": ({}, {"fgsm": {"eps": 8 / 255}, "pgd_20": {"steps": 20}}, "4: eps 8"),
    "figure4_cifar10": (CIFAR_A, {}, "Figure 4"),
}
KARIYAPPA_ENSEMBLES = {  # members, epochs, eps of the attacks, data set
    "conv3": (["conv3"] * 5, 10, [0.1, 0.3], "mnist"),
    "conv4": (["conv4"] * 5, 20, [0.03, 0.09], "cifar10"),
    "resnet20": (["resnet20"] * 5, 40, [0.03, 0.09], "cifar10"),
    "mix": (["resnet26", "resnet20", "conv4", "conv3", "conv3"], 40, [0.03, 0.09], "cifar10"),
}  # Kariyappa 4.1; the epochs of MIX are not stated
S_SINGLE = {"S_single": "standard_augmented"}
DEFENCES = {
    **{"S": "standard_augmented", "T_base": "standard_augmented", "T_div": "diversity"},
    **{"T_ens": "static_adv", "T_ens_div": "static_adv_diversity"},
}
KARIYAPPA_PARTS: dict[str, tuple[str, dict[str, str], bool]] = {  # ensemble, trainers of its models, whether attacked
    **{f"table2_{name}": (name, DEFENCES, True) for name in KARIYAPPA_ENSEMBLES},
    **{
        f"figure4_{name}": (name, {t: trainer for t, trainer in DEFENCES.items() if t != "S"}, False)
        for name in ("conv3", "conv4", "resnet20")
    },
    "figure5": ("conv4", {"T_base": "standard_augmented", "T_div": "diversity"}, False),
    "activations": (
        "conv3",
        {
            **{"T_base": "standard_augmented", "T_base_relu": "standard_augmented"},
            **{"T_div": "diversity", "T_div_relu": "diversity"},
        },
        False,
    ),
    "surrogates": (
        "conv3",
        {"S": "standard_augmented", **S_SINGLE, "T_base": "standard_augmented", "T_div": "diversity"},
        True,
    ),
}
KURAKIN_ACTIVATIONS = {
    "adv_relu6": {"name": "relu6"},
    **{f"adv_decay_0_{n}": {"name": "relu_decay", "beta": float(f"0.{n}")} for n in ("001", "01", "1")},
    "adv_tanh": {"name": "tanh"},
}
KURAKIN_METHODS = {
    **{"fgsm_90k": FGSM, "fgsm_pred_90k": FGSM_PRED, "fast_entropy_90k": {**FGSM, "loss": "entropy"}},
    **{"step_rnd_90k": {**FGSM, "label": "random"}, "step_ll_90k": STEP_LL},
    **{f"fast_grad_{norm}_90k": {**FGSM, "step": norm} for norm in ("l2", "linf")},
    **{"sign_noise_90k": SIGN_NOISE, "normal_noise_90k": NORMAL_NOISE},
}
ITERATED = {"iter_ll": ITER_LL, "iter_basic": ITER_BASIC}
Changes = dict[str, Any]
KURAKIN_PARTS: dict[str, tuple[dict[str, tuple[str, Changes]], dict[str, Any]]] = {
    "table1": (
        {
            **{"base": ("nat", {}), "adv": ("adv", {}), "deeper": ("nat", {"arch.extra_blocks": 2})},
            "deeper_adv": ("adv", {"arch.extra_blocks": 2}),
        },
        {"step_ll": STEP_LL},
    ),
    "table2": ({"base": ("nat", {}), "adv": ("adv", {})}, ITERATED),
    "table3": (
        {
            "adv_slow": ("adv", {"trainer.optimizer.lr": 0.0225 / 1600 * 32}),
            "fgsm_adv": ("adv", {"trainer.optimizer.lr": 0.0225 / 1600 * 32, "trainer.objective.attack": FGSM}),
        },
        {"step_ll": STEP_LL, "fgsm": FGSM, "fgsm_pred": FGSM_PRED},
    ),
    **{
        table: (
            {
                **{"A": ("nat", {}), "B": ("nat", {"seed": 1000}), "C": ("nat", {"arch.activation": {"name": "elu"}})},
                "D": ("nat", {"arch": {**RESNET, "depth": 26}}),
            },
            {"fgsm": FGSM, **ITERATED},
        )
        for table in ("table4", "table6")
    },
    "table5": (
        {
            "nat_90k": ("nat", {"trainer.epochs": 18.0}),
            **{
                name: ("adv", {"trainer.epochs": 18.0, "trainer.objective.attack": attack})
                for name, attack in KURAKIN_METHODS.items()
            },
        },
        {"fgsm": FGSM, "step_ll": STEP_LL},
    ),
    "table7": (
        {
            "adv": ("adv", {}),
            **{name: ("adv", {"arch.activation": activation}) for name, activation in KURAKIN_ACTIVATIONS.items()},
        },
        {"step_ll": STEP_LL, **ITERATED},
    ),
    "table8": (
        {
            **{"base": ("nat", {}), "adv": ("adv", {})},
            **{f"adv_k{k}": ("adv", {"trainer.objective.count": k}) for k in (4, 8, 24, 32)},
        },
        {"step_ll": STEP_LL},
    ),
    "figure1": ({}, {"step_ll": STEP_LL, **ITERATED}),
    "figure2": ({"A": ("nat", {}), "B": ("nat", {"seed": 1000})}, {"fgsm": FGSM, **ITERATED}),
    "figure3": (
        {"base": ("nat", {}), "adv": ("adv", {})},
        {
            **{"fgsm": FGSM, "fgsm_pred": FGSM_PRED, "fast_entropy": {**FGSM, "loss": "entropy"}, "step_ll": STEP_LL},
            **{f"fast_grad_{norm}": {**FGSM, "step": norm} for norm in ("l2", "linf")},
            "step_rnd": {**FGSM, "label": "random"},
        },
    ),
    "figure4": ({}, {"step_ll": STEP_LL, **ITERATED}),
    "figure5": ({"A": ("nat", {}), "B": ("nat", {"seed": 1000})}, {"fgsm": FGSM, **ITERATED}),
    "text": (
        {
            **{"base": ("nat", {}), "C": ("nat", {"arch.activation": {"name": "elu"}}), "adv": ("adv", {})},
            "adv_fixed_16": ("adv", {"trainer.objective.eps_distribution": "fixed"}),
            "adv_fixed_2": (
                *("adv",),
                {
                    "trainer.objective.eps_distribution": "fixed",
                    "trainer.objective.attack": {**STEP_LL, "eps": 2 / 255},
                },
            ),
            "adv_no_delay": ("adv", {"trainer.objective.delay": 0}),
            "adv_delay_20k": ("adv", {"trainer.objective.delay": 2 * 12.5 / 187 * 30}),
            "adv_delay_40k": ("adv", {"trainer.objective.delay": 4 * 12.5 / 187 * 30}),
            "adv_no_dropout": ("adv", {"arch.dropout": 0.0}),
            "adv_no_smoothing": ("adv", {"trainer.objective.label_smoothing": 0.0}),
            "adv_weak_decay": ("adv", {"trainer.optimizer.weight_decay": 4e-6}),
        },
        {"fgsm": {**FGSM, "eps": [n / 255 for n in (2, 4, 8, 16, 32)]}, "fgsm_pred": FGSM_PRED, "step_ll": STEP_LL},
    ),
}
"""by part what each model is trained by and what it changes, and the attacks (Tables 1 to 8, Figures 1 to 5, text)"""


def at_budgets(part: str, attack: dict[str, Any]) -> dict[str, Any]:
    """Return an attack with the eps of a part of Kurakin's paper, where it does not have its own."""
    budgets = 16 / 255 if part in ("table4", "table6") else BUDGETS["eps"]
    return attack if isinstance(attack["eps"], list) else {**attack, "eps": budgets}


SURFACE = {"model": "A_adv", "other": "B"}
PAPERS: list[Row] = [
    *((f"paper=tramer/{part} scale=paper", "suite", suite, source) for part, (_, suite, source) in PARTS.items()),
    *(
        (f"paper=tramer/{part} scale=paper", "dataset", {"name": "mnist", "train_size": 60_000, "test_size": 10_000}, s)
        for part in PARTS
        for s in ["mnist.py: all 60,000 training images; Table 1: the full test set"]
    ),
    *((f"paper=madry/{part} scale=paper", "suite", suite, s) for part, (_, suite, s) in MADRY_PARTS.items()),
    *(
        (
            *(f"paper=madry/{part} scale=paper", "dataset"),
            {"name": "mnist", "train_skip": 5000, "train_size": 55_000, "test_size": 10_000},
            "mnist_challenge: read_data_sets keeps 5,000 for validation",
        )
        for part in MADRY_PARTS
        if MADRY_PARTS[part][0].get("A") == "madry_mnist"
    ),
    *(
        (
            *(f"paper=kariyappa/{part} scale=paper", "suite"),
            {
                "fgsm": {**FGSM, "eps": eps},
                "r_fgsm": {**FGSM, "eps": eps, "start": "uniform", "start_share": 1.0},
                "i_fgsm": {**FGSM, "eps": eps, "steps": 10, "step_size": None, "step_share": None},
                "mi_fgsm": {**FGSM, "eps": eps, "steps": 10, "step_size": None, "step_share": None, "momentum": 1.0},
                "pgd_cw": {"eps": eps, "steps": 30, "loss": "margin", "kappa": 50.0, "step_share": 0.1},
            },
            "Kariyappa 4.1: two eps, 10 steps of eps / 10, decay 1; PGD-CW of 30 steps with confidence 50",
        )
        for part, (name, _, attacked) in KARIYAPPA_PARTS.items()
        for eps in [KARIYAPPA_ENSEMBLES[name][2]]
        if attacked
    ),
    *(
        (
            f"paper=kurakin/{part} scale=paper",
            "suite",
            {name: at_budgets(part, attack) for name, attack in suite.items()},
            s,
        )
        for part, (_, suite) in KURAKIN_PARTS.items()
        for s in ["Kurakin, Tables 1 to 8: eps 2, 4, 8, 16; Tables 4 and 6: 16"]
    ),
    *(
        (
            f"paper=kurakin/{part} scale=paper",
            "dataset",
            {"name": "cifar10", "train_size": None, "test_size": None},
            s,
        )
        for part in KURAKIN_PARTS
        for s in ["ours: all of CIFAR-10 in ImageNet's place"]
    ),
    *(
        (
            f"paper=kurakin/{part} scale=paper",
            "measurement.images",
            dict.fromkeys(suite, 1000),
            "Kurakin 4.4: 1,000",
        )
        for part, (_, suite) in KURAKIN_PARTS.items()
        if part in ("table4", "table6", "figure2", "figure5")
    ),
    *((f"paper=tramer/{part} scale=paper", "precision", "fp32", "float32: tf_utils.py") for part in PARTS),
    (
        "paper=tramer/figure2 scale=paper",
        "measurement",
        {**SURFACE, "points": 1},
        "Figure 2: A_adv along A_adv and B, a point",
    ),
    ("paper=tramer/figure3 scale=paper", "measurement", {**SURFACE, "points": 3}, "Figure 3: three more points"),
    *(
        (
            f"paper=tramer/figure{n} scale=paper",
            "measurement",
            {"extent": 0.3, "zoom": 0.03},
            "Figure 2: axes to 0.3; (b) to 0.03",
        )
        for n in (2, 3)
    ),
]

PINNED = [*ATTACKS, *SUITES, *ARCHES, *TRAINERS, *PAPERS]
