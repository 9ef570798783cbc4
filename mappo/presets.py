"""Named settings: `--preset NAME`, or `replace(PRESETS[NAME], iterations=500)` in Python; flags override them."""

from mappo.config import TrainConfig

PRESETS: dict[str, TrainConfig] = {
    "microgrid": TrainConfig(num_envs=512),
    "default": TrainConfig(
        num_envs=32,
        num_steps=128,
        num_epochs=10,
        num_minibatches=4,
        lr=5e-4,
        gamma=0.99,
        ent_coef=0.01,
        ent_schedule="constant",
    ),
    "spread": TrainConfig(
        num_envs=32,
        num_steps=100,
        num_epochs=10,
        num_minibatches=1,
        lr=7e-4,
        gamma=0.99,
        ent_coef=0.01,
        ent_schedule="constant",
    ),
    "vmas": TrainConfig(
        num_envs=60,
        num_steps=100,
        num_epochs=10,
        num_minibatches=4,
        lr=5e-4,
        gamma=0.99,
        gae_lambda=0.9,
        ent_coef=0.0,
    ),
    "benchmarl": TrainConfig(
        num_envs=60,
        num_steps=100,
        num_epochs=45,
        minibatch_size=400,
        lr=5e-5,
        lr_schedule="constant",
        gamma=0.99,
        gae_lambda=0.9,
        ent_coef=0.0,
        max_grad_norm=5.0,
        hidden_dim=256,
        activation="tanh",
        action_dist="tanh_gaussian",
        log_std_init=0.0,
        critic_input="state",
        reward_mode="individual",
    ),
}
PRESET_HELP: dict[str, str] = {
    "microgrid": "networked microgrids, 512 copies x one day",
    "default": "any other environment, a place to start from",
    "spread": "particle worlds of PettingZoo (mpe2), 25 steps an episode",
    "vmas": "VMAS tasks of 100 steps",
    "benchmarl": "the default settings of BenchMARL's MAPPO, to compare with it on VMAS",
}
