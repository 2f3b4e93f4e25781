"""What other trainers call our options: transformers, TRL, PEFT, Lightning, accelerate, axolotl and vLLM."""

from collections.abc import Mapping

_BY_OPTION = {
    "run.name": "run_name experiment_name",
    "run.root": "output_dir logging_dir save_dir default_root_dir output_path",
    "run.seed": "random_seed data_seed manual_seed",
    "model.source": "model_name_or_path model_name model_id model_path base_model pretrained",
    "value.source": "model_name_or_path model_name model_id model_path base_model pretrained reward_model_path",
    "model.n_future_tokens": "num_heads n_heads num_mtp_heads mtp_num_layers num_nextn_predict_layers num_mtp_layers",
    "model.lora": "peft peft_config use_peft use_lora adapter",
    "model.lora.r": "lora_r lora_rank rank lora_dim",
    "model.lora.alpha": "lora_alpha",
    "model.lora.dropout": "lora_dropout",
    "model.lora.target_modules": "lora_target_modules lora_target",
    "value.lora": "peft peft_config use_peft use_lora adapter",
    "value.lora.r": "lora_r lora_rank rank lora_dim",
    "value.lora.alpha": "lora_alpha",
    "value.lora.dropout": "lora_dropout",
    "value.lora.target_modules": "lora_target_modules lora_target",
    "data.root": "data_dir data_path dataset_dir dataset_root",
    "data.dataset": "dataset_name dataset_path datasets train_file",
    "data.train": "train_split dataset_train_split",
    "data.validation": "val_split eval_split test_split dataset_test_split eval_dataset",
    "data.template": "chat_template prompt_template prompt_format",
    "data.max_length": "max_seq_length max_seq_len sequence_len sequence_length seq_length block_size cutoff_len",
    "data.max_tokens": "per_device_train_batch_size train_batch_size batch_size micro_batch_size max_tokens_per_batch",
    "optim.lr": "learning_rate max_lr peak_lr base_lr",
    "optim.betas": "adam_beta1 adam_beta2 beta1 beta2 adam_betas",
    "optim.eps": "adam_epsilon adam_eps epsilon",
    "optim.weight_decay": "wd l2",
    "optim.warmup_steps": "warmup_ratio warmup num_warmup_steps lr_warmup_steps",
    "optim.final_lr_ratio": "min_lr min_lr_ratio min_lr_rate lr_scheduler_kwargs",
    "optim.max_grad_norm": "gradient_clip_val gradient_clipping grad_clip clip_grad clip_grad_norm max_norm",
    "training.max_steps": "num_train_epochs epochs num_epochs max_epochs max_train_steps total_steps max_iters",
    "training.gradient_accumulation": "gradient_accumulation_steps accumulate_grad_batches grad_accum_steps grad_accum",
    "training.validate_every": "eval_steps eval_interval eval_every evaluation_strategy val_check_interval",
    "training.validation_batches": "per_device_eval_batch_size eval_batch_size eval_iters limit_val_batches",
    "training.save_every": "save_steps save_interval save_strategy checkpoint_every checkpointing_steps",
    "training.log_every": "logging_steps log_interval log_every_n_steps logging_strategy",
    "training.best_metric": "metric_for_best_model load_best_model_at_end monitor",
    "training.best_mode": "greater_is_better",
    "training.upload_to": "push_to_hub hub_model_id remote_dir",
    "runtime.precision": "bf16 fp16 fp32 tf32 dtype torch_dtype mixed_precision",
    "runtime.activation_checkpointing": "gradient_checkpointing recompute",
    "runtime.device": "device_map use_cpu no_cuda accelerator",
    "runtime.parallel": "fsdp fsdp_config deepspeed strategy distributed_type",
    "runtime.threads": "num_threads num_workers dataloader_num_workers cpu_threads",
    "runtime.timeout_seconds": "ddp_timeout nccl_timeout",
    "tracking": "report_to use_mlflow use_wandb trackers log_with logger",
    "mlflow.tracking_uri": "mlflow_tracking_uri mlflow_uri",
    "mlflow.experiment": "mlflow_experiment_name project",
    "wandb.project": "wandb_project project_name",
    "wandb.mode": "wandb_mode wandb_offline",
    "weighting.gamma": "discount discount_factor",
    "weighting.lam": "lambda gae_lambda lambda_gae td_lambda",
    "sampling.n_samples": "num_return_sequences n num_samples num_generations n_completions",
    "sampling.max_new_tokens": "max_tokens max_completion_length max_gen_toks max_response_length",
    "sampling.stop": "stop_sequences stop_strings until eos_string",
    "sampling.temperature": "temp",
    "sampling.top_p": "nucleus",
    "sampling.batch_size": "per_device_eval_batch_size eval_batch_size",
}


def _by_name(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for option, names in table.items():
        for name in names.split():
            found[name] = (*found.get(name, ()), option)
    return found


SYNONYMS = _by_name(_BY_OPTION)
"""Another program's name → the options that it may mean, in the order in which they are to be tried."""
