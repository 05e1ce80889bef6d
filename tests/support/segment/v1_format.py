"""nnU-Net v1's network and files, written for the tests from its description.

Nothing of limn or nnU-Net is used: what is converted is held against this.
"""

import pickle
from collections import OrderedDict

import numpy as np
import torch
from torch.nn import functional

INTENSITIES = {
    "mean": -310.5, "sd": 275.25, "median": -380.0, "mn": -990.0, "mx": 940.0,
    "percentile_00_5": -1006.0, "percentile_99_5": 737.0,
}  # fmt: skip


class Net:
    """Weights of a v1 network under v1's names, and its forward pass."""

    def __init__(self, kernels, pools, base=4, *, seed=0, channels=1, classes=5, convs=2, most=320):
        self.kernels, self.pools, self.convs = kernels, pools, convs
        self.generator = torch.Generator().manual_seed(seed)
        self.state = OrderedDict()
        n = len(pools)
        self.features = [min(base * 2**i, most) for i in range(n + 1)]
        # v1 registers the decoder first.
        for u in range(n):
            width = self.features[n - 1 - u]
            for half, count in ((0, convs - 1), (1, 1)):
                for i in range(count):
                    before = 2 * width if (half, i) == (0, 0) else width
                    name = f"conv_blocks_localization.{u}.{half}.blocks.{i}"
                    self._block(name, before, width, kernels[n - u])
        before = channels
        for d in range(n):
            for i in range(convs):
                name = f"conv_blocks_context.{d}.blocks.{i}"
                self._block(name, before, self.features[d], kernels[d])
                before = self.features[d]
        for half, count in ((0, convs - 1), (1, 1)):
            for i in range(count):
                name = f"conv_blocks_context.{n}.{half}.blocks.{i}"
                self._block(name, before, self.features[n], kernels[n])
                before = self.features[n]
        for u in range(n):
            above = self.features[n - 1 - u]
            self.state[f"tu.{u}.weight"] = self._random(self.features[n - u], above, *pools[-1 - u])
        for u in range(n):
            width = self.features[n - 1 - u]
            self.state[f"seg_outputs.{u}.weight"] = self._random(
                classes, width, *([1] * len(kernels[0]))
            )

    def _random(self, *shape):
        fan = max(1, int(np.prod(shape[1:])))
        return torch.randn(shape, generator=self.generator) * (2 / fan) ** 0.5

    def _block(self, name, before, after, kernel):
        self.state[f"{name}.conv.weight"] = self._random(after, before, *kernel)
        self.state[f"{name}.conv.bias"] = self._random(after)
        self.state[f"{name}.instnorm.weight"] = 1 + 0.3 * self._random(after)
        self.state[f"{name}.instnorm.bias"] = 0.3 * self._random(after)

    def _run(self, name, x, kernel, stride=1):
        flat = len(kernel) == 2
        convolve = functional.conv2d if flat else functional.conv3d
        padding = [1 if k == 3 else 0 for k in kernel]
        x = convolve(
            x, self.state[f"{name}.conv.weight"], self.state[f"{name}.conv.bias"], stride, padding
        )
        x = functional.instance_norm(
            x, weight=self.state[f"{name}.instnorm.weight"],
            bias=self.state[f"{name}.instnorm.bias"], eps=1e-5,
        )  # fmt: skip
        return functional.leaky_relu(x, 0.01)

    def __call__(self, x):
        """Answers at every depth, the finest first."""
        n = len(self.pools)
        flat = len(self.kernels[0]) == 2
        convolve = functional.conv2d if flat else functional.conv3d
        widen = functional.conv_transpose2d if flat else functional.conv_transpose3d
        skips = []
        for d in range(n + 1):
            for i in range(self.convs):
                half = f"{int(i == self.convs - 1)}." if d == n else ""
                own = 0 if d == n and i == self.convs - 1 else i
                stride = self.pools[d - 1] if d and i == 0 else 1
                name = f"conv_blocks_context.{d}.{half}blocks.{own}"
                x = self._run(name, x, self.kernels[d], stride)
            skips.append(x)
        answers = []
        for u in range(n):
            x = widen(x, self.state[f"tu.{u}.weight"], stride=self.pools[n - 1 - u])
            x = torch.cat([x, skips[n - 1 - u]], dim=1)
            for i in range(self.convs):
                half, own = (1, 0) if i == self.convs - 1 else (0, i)
                name = f"conv_blocks_localization.{u}.{half}.blocks.{own}"
                x = self._run(name, x, self.kernels[n - u])
            answers.append(convolve(x, self.state[f"seg_outputs.{u}.weight"]))
        return answers[::-1]


def plans_of(net, patch, **more):
    """The plans of one stage, or of as many as ``stages`` says, as v1's planner writes them."""
    options = {
        "stages": 1, "spacing": (0.14, 0.14, 0.14), "forward": (0, 1, 2), "scheme": "CT",
        "preprocessor": "GenericPreprocessor", "modalities": 1, "classes": 4,
    } | more  # fmt: skip
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [sum(p[i] == 2 for p in net.pools) for i in range(len(patch))],
        "patch_size": np.array(patch),
        "median_patient_size_in_voxels": np.array([200, 160, 300]),
        "current_spacing": np.array(options["spacing"]),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": net.pools,
        "conv_kernel_sizes": net.kernels,
    }
    coarse = stage | {"current_spacing": 2 * np.array(options["spacing"])}
    stages = {0: coarse, 1: stage} if options["stages"] == 2 else {0: stage}
    properties = {key: np.float64(value) for key, value in INTENSITIES.items()}
    return {
        "num_modalities": options["modalities"],
        "modalities": {0: "CT"},
        "normalization_schemes": OrderedDict([(0, options["scheme"])]),
        "dataset_properties": {"intensityproperties": OrderedDict([(0, properties)])},
        "num_classes": options["classes"],
        "all_classes": list(range(1, options["classes"] + 1)),
        "base_num_features": net.features[0],
        "use_mask_for_norm": OrderedDict([(0, False)]),
        "transpose_forward": list(options["forward"]),
        "transpose_backward": [list(options["forward"]).index(axis) for axis in range(3)],
        "plans_per_stage": stages,
        "preprocessor_name": options["preprocessor"],
        "conv_per_stage": net.convs,
    }


def write_v1(folder, nets, plans, *, stage=0, trainer="nnUNetTrainerV2", protocol=4):
    """Write a result folder like v1, with optimiser and losses as NumPy scalars."""
    folder.mkdir(parents=True)
    (folder / "plans.pkl").write_bytes(pickle.dumps(plans, protocol))
    for fold, net in enumerate(nets):
        place = folder / f"fold_{fold}"
        place.mkdir()
        arguments = (
            "/home/x/plans.pkl", fold, "/results/nnUNet/3d_fullres/Task501_Mouse/t", "/data", False,
            stage, True, False, True,
        )  # fmt: skip
        info = OrderedDict(init=arguments, name=trainer, plans=plans)
        info["class"] = "<class 'nnunet'>"
        path = place / "model_final_checkpoint.model"
        path.with_name(path.name + ".pkl").write_bytes(pickle.dumps(info, protocol))
        torch.save(
            {
                "epoch": 1000,
                "state_dict": net.state,
                "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
                "lr_scheduler_state_dict": None,
                "plot_stuff": ([np.float64(-0.5)], [np.float32(0.25)], [], [np.mean([0.5])]),
                "best_stuff": (np.float64(0.1), None, np.float64(0.9)),
            },
            path,
        )
    return folder
